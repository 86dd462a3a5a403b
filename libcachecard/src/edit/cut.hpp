#pragma once

#include <algorithm>

#include "cachecard/edit.hpp"
#include "cachecard/writer.hpp"
#include "writer/chunk_jobs.hpp"

namespace cachecard {

/// The tokens and layers that stay; token numbers of the new card are `first` less.
struct Cut {
  std::uint64_t first = 0;
  std::uint64_t end = 0;
  std::uint32_t first_layer = 0;
  std::uint32_t end_layer = 0;
  bool whole_tokens = false;
  bool whole_layers = false;

  bool keeps_layer(std::uint32_t layer) const { return layer >= first_layer && layer < end_layer; }
  /// [from, from + count) cut to what stays, in new token numbers.
  TokenSpan clip(std::uint64_t from, std::uint64_t count) const {
    const std::uint64_t lo = std::clamp(from, first, end);
    const std::uint64_t hi = std::clamp(from + count, first, end);
    return {lo - first, hi - lo};
  }
};

/// Errors: invalid_argument
Result<Cut> plan_cut(const CardHeader& header, const TrimOptions& options);

/// Errors: not_restorable.   Spec: FORMAT.md#restorable-prefixes
Status check_restorable(const CardHeader& header, const Cut& cut);

/// References of the segment's tokens [first, first + count). What led before the first leads nowhere.
References cut_references(const References& references, std::uint64_t first, std::uint64_t count);

/// For provenance.
std::string describe(const Cut& cut, const TrimOptions& options);

/// Appends a chunk that was coded anew. frame: all but sizes (digest_size is set) and digest.
Status append_cut(CardWriter& writer, FrameHeader frame, std::vector<std::byte> payload);

}  // namespace cachecard
