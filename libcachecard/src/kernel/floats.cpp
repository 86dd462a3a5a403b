#include "kernel/floats.hpp"

#include <cmath>

namespace cachecard::kernel {

void hadamard(std::span<float> values, std::size_t n) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(n));
  for (std::size_t group = 0; group < values.size(); group += n) {
    float* v = values.data() + group;
    for (std::size_t i = 0; i < n; ++i) v[i] *= scale;
    for (std::size_t stride = 1; stride < n; stride *= 2) {
      for (std::size_t start = 0; start < n; start += 2 * stride) {
        for (std::size_t i = start; i < start + stride; ++i) {
          const float a = v[i];
          const float b = v[i + stride];
          v[i] = a + b;
          v[i + stride] = a - b;
        }
      }
    }
  }
}

}  // namespace cachecard::kernel
