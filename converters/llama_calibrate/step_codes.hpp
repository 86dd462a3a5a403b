#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace cachecard::llama_calibrate {

/// Factors on the steps of a layer's key channels, as codes (128 is 1, 16 more are twice): finer where queries are large, by the
/// square root of their energy over the layer's geometric mean, within 1/4 to 4.
/// query_energy: sum of squares [query_head][key_dim] in card order; both channels of one of the first pair_count pairs get one
/// factor, because the embedding turns them into each other. Returns [kv_head][key_dim].
std::vector<std::uint8_t> key_step_codes(std::span<const double> query_energy, std::uint32_t kv_head_count,
                                         std::uint32_t key_dim, std::uint32_t pair_count);
/// The factor that a code stands for.
float step_factor(std::uint8_t code);

}  // namespace cachecard::llama_calibrate
