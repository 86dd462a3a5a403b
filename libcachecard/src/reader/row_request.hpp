#pragma once

#include <cstdint>

#include "cachecard/reader.hpp"

namespace cachecard {

/// Rows that are put, changed and looked at in one go, so that they stay in the nearest cache.
inline constexpr std::uint64_t kRowsAtOnce = 128;

/// Tokens of one chunk that a request touches; none where first >= end.
struct Overlap {
  std::uint64_t first;
  std::uint64_t end;
};

Overlap overlap(const FrameHeader& frame, std::uint64_t first_token, std::uint64_t token_count);

/// Errors: invalid_argument
Status check_request(const CardHeader& header, std::size_t stream_index, std::uint64_t first_token, std::uint64_t token_count);

}  // namespace cachecard
