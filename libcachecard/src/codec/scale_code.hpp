#pragma once

#include <cstdint>
#include <span>
#include <vector>

/// The vector scales of `entropy`: one number from -8 to 7 for each coded head vector. spec: CODECS.md#vector-scales
namespace cachecard {

inline constexpr std::int32_t kLeastScale = -8;
inline constexpr std::int32_t kMostScale = 7;

/// Head vector by head vector: runs[u] is unit u's numbers in token order.   Needs: all in range
std::vector<std::byte> encode_scales(std::span<const std::vector<std::int8_t>> units);

/// Bits that encode_scales would take.
std::uint64_t scale_bits(std::span<const std::int8_t> unit);

/// unit_count runs of coded_count numbers each; false where the bits do not give exactly these.
bool decode_scales(std::span<const std::byte> bytes, std::size_t unit_count, std::size_t coded_count,
                   std::vector<std::int8_t>& out);

}  // namespace cachecard
