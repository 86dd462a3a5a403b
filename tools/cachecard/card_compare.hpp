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
  bool values = false;  ///< about which values there are, and of which tokens: no tolerance covers it
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
  bool measured = false;        ///< what follows was summed up
  std::uint64_t nonfinite = 0;  ///< of those that differ, how many with a NaN or infinity on a side
  double left_square = 0.0;     ///< sums over finite pairs
  double right_square = 0.0;
  double product = 0.0;
  double difference_square = 0.0;
  std::uint64_t worst_token = 0;
  double worst_error = 0.0;  ///< of that token's values, relative
};

/// One stream of both cards: values in f32, keys in one channel order and with RoPE where either has it.
struct StreamComparison {
  std::uint32_t layer = 0;
  StreamKind stream = StreamKind::kKey;
  std::uint64_t value_count = 0;  ///< opaque: bytes
  std::uint64_t differing = 0;
  std::uint64_t nonfinite = 0;
  double relative_error = 0.0;  ///< |left - right| / |left|, Euclidean norms over all values; 1 where left is zero
  double cosine = 1.0;
  double max_abs = 0.0;
  std::uint64_t worst_token = 0;  ///< the one of the largest relative error
  double worst_error = 0.0;

  /// Whether the values differ by more than a relative error.
  bool beyond(double tolerance) const;
};

struct Comparison {
  bool same_root = false;  ///< the files are the same
  std::vector<Difference> identity;
  std::vector<Difference> structure;  ///< tokens, positions, shapes, types
  std::vector<Difference> storage;    ///< does not change what the cards hold
  std::vector<ChunkComparison> chunks;
  std::vector<StreamComparison> streams;

  std::uint64_t count(ChunkVerdict verdict) const;
  /// Whether the cards hold something else, however stored.
  bool different() const;
  /// Whether they hold other tokens or shapes, or values that differ by more than a relative error. Types, rotation and
  /// identity do not count.
  bool beyond(double tolerance) const;
};

/// Errors: the reader's
Result<Comparison> compare(const CardReader& left, const CardReader& right, const ParallelFor& parallel);

/// A stream of one of two cards, and how its values are made comparable.
struct CompareSide {
  const CardReader* card;
  std::size_t stream;
  std::optional<std::int64_t> rope_shift{};    ///< 0: keys without RoPE get it
  RopePairing pairing = RopePairing::kNone;    ///< channel order that keys are put into; none: as they are

  const StreamRecord& record() const { return card->header().streams[stream]; }
  bool changes_keys() const { return rope_shift || pairing != RopePairing::kNone; }
};

/// Values of a shared stream, chunk by chunk of the left card. Needs: equal heads and head_dim.
Status compare_streams(const CompareSide& left, const CompareSide& right, const ParallelFor& parallel,
                       std::vector<ChunkComparison>& chunks, StreamComparison& total);

}  // namespace cachecard::cli
