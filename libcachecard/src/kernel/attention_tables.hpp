#pragma once

#include <array>
#include <cstddef>

/// Numbers that all sets of attention loops share.
namespace cachecard::kernel {

inline constexpr std::size_t kMostQueries = 8;       ///< that are looked at together
inline constexpr float kUnseen = -1e30f;             ///< logit of a token that the query does not see
inline constexpr float kLeastExponent = -126.0f;
/// 2^f for f in -1/2..1/2, from the constant on.   Source: Taylor series of exp(f ln 2); relative error 2e-7
inline constexpr std::array<float, 7> kExp2Terms{1.0f,           0x1.62e430p-1f, 0x1.ebfbe0p-3f, 0x1.c6b08ep-5f,
                                                 0x1.3b2ab6p-7f, 0x1.5d87fep-10f, 0x1.430912p-13f};

/// The sum of 16 partial sums, in halves: the same order whatever the vectors' width.
inline float sum_of_block(const float* partial) {
  std::array<float, 8> half{};
  for (std::size_t i = 0; i < 8; ++i) half[i] = partial[i] + partial[i + 8];
  for (std::size_t n = 4; n > 0; n /= 2) {
    for (std::size_t i = 0; i < n; ++i) half[i] += half[i + n];
  }
  return half[0];
}

}  // namespace cachecard::kernel
