#pragma once

#include <string>
#include <vector>

#include "cachecard/reader.hpp"

namespace cachecard::cli {

/// One fact that two cards do not share.
struct Difference {
  std::string what;
  std::string left;
  std::string right;
};

enum class ChunkVerdict {
  kEqual,        ///< the same codec, type, span, stored digest, parameters and map
  kEqualValues,  ///< stored in another way, decoded to the same
  kDifferent,
};
std::string_view name_of(ChunkVerdict verdict);

/// What became of one chunk of the left card.
struct ChunkComparison {
  std::uint32_t layer = 0;
  StreamKind stream = StreamKind::kKey;
  std::uint64_t first_token = 0;  ///< opaque: 0
  std::uint64_t token_count = 0;
  ChunkVerdict verdict = ChunkVerdict::kEqual;
  std::uint64_t value_count = 0;
  std::uint64_t differing = 0;  ///< values that are not the same (opaque: bytes)
  double max_abs = 0.0;         ///< largest difference of finite values
};

struct Comparison {
  bool same_root = false;  ///< the files are the same
  std::vector<Difference> identity;
  std::vector<Difference> structure;  ///< tokens, positions, shapes, types
  std::vector<Difference> storage;    ///< does not change what the cards hold
  std::vector<ChunkComparison> chunks;

  std::uint64_t count(ChunkVerdict verdict) const;
  /// Whether the cards hold something else, however stored.
  bool different() const;
};

/// Errors: the reader's
Result<Comparison> compare(const CardReader& left, const CardReader& right, const ParallelFor& parallel);

/// Values of a shared stream, chunk by chunk of the left card. Needs: equal heads and head_dim.
Status compare_streams(const CardReader& left, std::size_t left_stream, const CardReader& right,
                       std::size_t right_stream, const ParallelFor& parallel,
                       std::vector<ChunkComparison>& chunks);

}  // namespace cachecard::cli
