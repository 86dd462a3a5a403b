#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "fixture_values.hpp"
#include "kernel/floats.hpp"
#include "kernel/planes.hpp"

/// Shapes and rows that every set of `planes` loops is compared on.
namespace cachecard::planes_cases {

/// A PlanesShape that owns its groups.
struct Case {
  std::uint32_t head_count;
  std::uint32_t head_dim;
  std::uint32_t hadamard_size;
  std::vector<std::uint32_t> groups;
  RopePairing pairing = RopePairing::kNone;
  std::uint32_t offset = 0;
  std::uint32_t width = 0;

  kernel::PlanesShape shape() const {
    return {.head_count = head_count,
            .head_dim = head_dim,
            .hadamard_size = hadamard_size,
            .group_widths = groups,
            .pairing = pairing,
            .rotated_offset = offset,
            .rotated_width = width};
  }

  std::string name() const {
    return std::to_string(head_count) + " heads of " + std::to_string(head_dim) + ", " + std::to_string(groups.size()) +
           " groups, hadamard " + std::to_string(hadamard_size) + ", pairing " +
           std::to_string(static_cast<int>(pairing)) + " of " + std::to_string(width) + " at " + std::to_string(offset);
  }
};

/// Every head size with every Hadamard size that fits and every place of the rotated channels.
inline std::vector<Case> all_cases() {
  std::vector<Case> cases;
  const auto add = [&](std::uint32_t heads, std::vector<std::uint32_t> groups) {
    std::uint32_t head_dim = 0;
    std::uint32_t bits = 0;
    for (const std::uint32_t group : groups) head_dim += group, bits |= group;
    for (std::uint32_t n = 1; n <= kernel::kLargestHadamard && bits % n == 0; n *= 2) {
      cases.push_back({heads, head_dim, n, groups});
      for (const RopePairing pairing : {RopePairing::kInterleaved, RopePairing::kHalfSplit}) {
        const auto rotate = [&](std::uint32_t offset, std::uint32_t width) {
          if (width > 0 && offset + width <= head_dim)
            cases.push_back({heads, head_dim, n, groups, pairing, offset, width});
        };
        rotate(0, head_dim / 2 * 2);
        rotate(0, head_dim / 4 * 2);
        rotate(head_dim / 4 * 2, head_dim / 4 * 2);
        rotate(head_dim >= 32 ? 16 : 3, head_dim >= 32 ? 16 : 2);
        rotate(head_dim / 3, 6);
      }
    }
  };
  for (const std::uint32_t dim : {1, 2, 7, 8, 40, 48, 64, 72, 80, 96, 112, 128, 256}) add(3, {dim});
  add(1, {64});
  add(8, {128});
  add(19, {1});
  add(2, {64, 512});
  add(3, {16, 8, 40});
  return cases;
}

inline float pick(fixtures::Random& random, int low_exponent, int high_exponent) {
  const int exponent = low_exponent + static_cast<int>(random.below(static_cast<std::uint64_t>(high_exponent - low_exponent)));
  const float mantissa = 1.0f + static_cast<float>(random.below(1 << 23)) * 0x1p-23f;
  return (random.below(2) == 0 ? 1.0f : -1.0f) * std::ldexp(mantissa, exponent);
}

/// f16 values, as the means of a card are: now and then -0 or a subnormal.
inline std::vector<float> pick_means(fixtures::Random& random, std::size_t count) {
  std::vector<float> means(count);
  for (float& mean : means) {
    mean = kernel::f32_from_f16(kernel::f16_from_f32(pick(random, random.below(8) == 0 ? -26 : -4, 4)));
    if (random.below(16) == 0) mean = -0.0f;
  }
  return means;
}

inline std::vector<float> pick_angles(fixtures::Random& random, std::size_t pairs) {
  std::vector<float> angles(2 * pairs);
  for (std::size_t i = 0; i < pairs; ++i) {
    const double theta = static_cast<double>(random.below(1 << 20)) * 1e-3;
    angles[2 * i] = static_cast<float>(std::cos(theta));
    angles[2 * i + 1] = static_cast<float>(std::sin(theta));
  }
  return angles;
}

/// A row of floats in a type's bytes.
inline std::vector<std::byte> in_type(const std::vector<float>& values, DType dtype) {
  const std::size_t size = dtype == DType::kF32 ? 4 : 2;
  std::vector<std::byte> bytes(values.size() * size);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::uint16_t half =
        dtype == DType::kF16 ? kernel::f16_from_f32(values[i]) : kernel::bf16_from_f32(values[i]);
    std::memcpy(&bytes[i * size], size == 4 ? static_cast<const void*>(&values[i]) : &half, size);
  }
  return bytes;
}

}  // namespace cachecard::planes_cases
