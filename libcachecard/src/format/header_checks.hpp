#pragma once

#include <string_view>

#include "cachecard/card.hpp"

/// What must hold between the header's tables. Offsets are of the tables, for error messages.
namespace cachecard {

/// Segments tile [0, token_count) in order.
Status check_segments(const CardHeader& header, std::uint64_t table_offset, std::uint32_t stride);

/// Streams ascend by (layer, stream), lie in the card, and their rows are whole blocks; parts tile heads.
Status check_streams(const CardHeader& header, std::uint64_t stream_table, std::uint32_t stream_stride,
                     std::uint64_t part_table, std::uint32_t part_stride);

bool is_utf8(std::string_view text);

}  // namespace cachecard
