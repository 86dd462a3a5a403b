#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

/// Values that blocks are tried on: what a cache holds, and what it hardly ever does.
namespace cachecard::llama_cpp::test {

/// 4,096 blocks of 32: bell-shaped of many sizes, halves (which tie), equal values, zeros of both signs, tiny
/// ones.
inline std::vector<float> block_values() {
  std::uint64_t seed = 20261124;
  const auto next = [&seed] {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return static_cast<float>(seed >> 40) / 16777216.0f - 0.5f;
  };
  std::vector<float> values;
  for (int block = 0; block < 4096; ++block) {
    const float size = std::ldexp(1.0f, block % 24 - 12);
    for (int i = 0; i < 32; ++i) {
      float value = (next() + next() + next() + next()) * size;
      if (block % 8 == 1) value = std::round(value / size * 16.0f) * size / 2.0f;  // ties, of extremes too
      if (block % 64 == 2) value = size;
      if (block % 64 == 3) value = i % 2 == 0 ? 0.0f : value;
      if (block % 512 == 4) value = i % 2 == 0 ? -0.0f : 0.0f;
      if (block % 512 == 5) value = value / size * 1e-12f;
      values.push_back(value);
    }
  }
  return values;
}

}  // namespace cachecard::llama_cpp::test
