#pragma once

#include <cstdint>
#include <span>

#include "linear_map.hpp"

/// One head of a stream, as the codec's steps would round it. Rows are [token][channel] in card order, without embedding.
namespace cachecard::llama_calibrate {

/// First tokens of a card, which stay as they are.
inline constexpr Eigen::Index kExactTokens = 4;

/// Keys of one head: channel means off, rounded to step x the root mean square of the whole stream x the channel's factor, means on.
/// Errors cost by how queries read them, so step_codes are the profile's own. [key_dim] of this head
Rows rounded_keys(const Rows& stream, std::uint32_t head, std::span<const std::uint8_t> step_codes, double step);

/// Values of one head: rounded to step x (the root mean square of the stream x that of the head's vector)^1/2.
Rows rounded_values(const Rows& stream, std::uint32_t head, std::uint32_t value_dim, double step);

}  // namespace cachecard::llama_calibrate
