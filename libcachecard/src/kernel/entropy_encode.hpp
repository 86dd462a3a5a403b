#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <array>
#include <bit>

#include "kernel/entropy.hpp"

/// What the encoders' loops of all SIMD targets share, so that they give the same bits. Sums are taken in blocks of tokens in
/// f32, in token order, and the blocks in f64.
namespace cachecard::kernel {

inline constexpr std::size_t kProductBlock = 64;
inline constexpr std::size_t kMomentBlock = 32;
inline constexpr std::size_t kEnergyParts = 16;  ///< channel c goes to sum c % 16

inline constexpr float kMagic = 0x1.8p23f;
inline constexpr std::int32_t kMagicBits = 0x4B400000;

/// To the nearest integer, ties to even.   Needs: |x| < 2^22
inline std::int32_t nearest(float x) { return std::bit_cast<std::int32_t>(x + kMagic) - kMagicBits; }

/// Half a step, and the rounding of the row, in 1/64 of a lane step.
inline float largest_error(std::int32_t multiplier) { return static_cast<float>(multiplier) * 0.0625f + 1.0f; }

inline float sum_of_parts(std::array<float, kEnergyParts>& parts) {
  for (std::size_t half = kEnergyParts / 2; half > 0; half /= 2) {
    for (std::size_t i = 0; i < half; ++i) parts[i] += parts[i + half];
  }
  return parts[0];
}

/// Both shapes' costs of an index, from sum 0 on.
inline const std::uint16_t* costs_of(const std::uint16_t* costs, std::int32_t index) {
  return costs + static_cast<std::size_t>(std::clamp(index, -kMostCostIndex, kMostCostIndex) + kMostCostIndex) * (2 * kCostSums);
}

void add_escape(StripSymbols& out, std::size_t token, std::uint32_t state, std::int16_t index);

/// Tokens of a block that have a reference, by class.
struct ProductBlock {
  struct Item {
    std::size_t token;
    std::size_t from;
    float inverse;  ///< 1 / step^2
    float noise;    ///< of the reference's rounding, for a scale of 1
  };
  ProductBlock(std::span<const StripToken> tokens, std::size_t first);
  std::array<std::array<Item, kProductBlock>, 3> items;
  std::array<std::size_t, 3> count{};
};

/// The members of the scalar set that encoders use.
void put_scalar_encoders(EntropyKernels& set);

}  // namespace cachecard::kernel
