#pragma once

#include <algorithm>
#include <functional>

#include "planes_cases.hpp"

/// Caches that break codecs.
namespace cachecard::tests::pathological {

struct Case {
  std::string name;
  FormulaSource::Shape shape;
  std::function<double(fixtures::Random&, std::uint64_t, std::uint32_t, std::uint32_t)> value;
};

inline std::vector<Case> cases() {
  using R = fixtures::Random;
  const FormulaSource::Shape plain{};
  const FormulaSource::Shape bf16{64, 2, 64, DType::kBf16};
  std::vector<Case> all{
      {"normal", plain, [](R& r, auto, auto, auto) { return normal(r); }},
      {"norm ratio 180", plain, [](R& r, auto, auto h, auto) { return normal(r) * (h == 0 ? 180.0 : 1.0); }},
      {"norms of tokens 180 apart", plain, [](R& r, auto t, auto, auto) { return normal(r) * (t % 7 == 0 ? 180.0 : 1.0); }},
      {"bias of 50 sigma", plain, [](R& r, auto, auto, auto c) { return normal(r) + (c % 3 == 0 ? 50.0 : -50.0); }},
      {"channels of 1000 sigma", plain, [](R& r, auto, auto, auto c) { return normal(r) * (c == 5 ? 1000.0 : 1.0); }},
      {"constant heads", plain, [](R& r, auto, auto h, auto) { return h == 0 ? 3.25 : normal(r); }},
      {"constant along the head", plain, [](R&, auto t, auto, auto) { return 0.5 + static_cast<double>(t); }},
      {"zero heads", plain, [](R& r, auto, auto h, auto) { return h == 0 ? 0.0 : normal(r); }},
      {"all zero", plain, [](R&, auto, auto, auto) { return 0.0; }},
      {"the range of bf16", bf16, [](R& r, auto t, auto, auto) { return std::ldexp(normal(r), static_cast<int>(t) * 4 - 126); }},
      {"bf16 near its largest", bf16, [](R& r, auto, auto, auto) { return std::ldexp(normal(r), 120); }},
      {"near f16's largest", {64, 2, 64, DType::kF16}, [](R& r, auto, auto, auto) { return std::clamp(30000.0 * normal(r), -65504.0, 65504.0); }},
      {"f16's largest of either sign", {64, 2, 64, DType::kF16}, [](R&, auto t, auto, auto c) { return (t * 7 + c * c) % 3 == 0 ? -65504.0 : 65504.0; }},
      {"denormals of f16", {64, 2, 64, DType::kF16}, [](R& r, auto, auto, auto) { return std::ldexp(normal(r), -18); }},
      {"denormals of f32", plain, [](R& r, auto, auto, auto) { return std::ldexp(normal(r), -135); }},
      {"one value in a million", plain, [](R& r, auto t, auto, auto c) { return t == 9 && c == 9 ? 1e6 : normal(r); }},
      {"one value beyond its channel", {1000, 1, 64, DType::kF32}, [](R& r, auto t, auto, auto c) { return t == 700 && c == 9 ? 1e6 : normal(r); }},
      {"constant channels", plain, [](R& r, auto, auto, auto c) { return c % 4 == 0 ? 1.5 : normal(r); }},
      {"zero rows", plain, [](R& r, auto t, auto, auto) { return t % 5 == 0 ? 0.0 : normal(r); }},
      {"alternating signs", plain, [](R& r, auto t, auto, auto c) { return ((t + c) % 2 == 0 ? 7.0 : -7.0) + 0.01 * normal(r); }},
      {"identical tokens", plain, [](R&, auto, auto h, auto c) { return std::sin(1.0 + 3.0 * h + c); }},
      {"one token", {1, 2, 64, DType::kF32}, [](R& r, auto, auto, auto) { return normal(r); }},
      {"one token of one channel", {1, 1, 1, DType::kF16}, [](R&, auto, auto, auto) { return -2.5; }},
  };
  for (const std::uint32_t width : {1u, 48u, 80u, 96u, 112u, 128u, 576u}) {
    all.push_back({"head_dim " + std::to_string(width), {400, 1, width, DType::kF16},
                   [](R& r, auto, auto, auto) { return normal(r); }});
  }
  return all;
}

/// Errors of ggml's q8_0: blocks of 32 along the row, d an f16. source: ggml quantize_row_q8_0
inline double q8_0_error(std::span<const float> row) {
  double sum = 0.0;
  for (std::size_t at = 0; at < row.size(); at += 32) {
    const auto block = row.subspan(at, std::min<std::size_t>(32, row.size() - at));
    float largest = 0.0f;
    for (const float v : block) largest = std::max(largest, std::fabs(v));
    const float d = kernel::f32_from_f16(kernel::f16_from_f32(largest / 127.0f));
    for (const float v : block) {
      const double q = largest == 0.0f ? 0.0 : std::round(double{v} / (double{largest} / 127.0));
      const double error = double{v} - q * double{d};
      sum += std::isfinite(error) ? error * error : double{v} * v;
    }
  }
  return sum;
}

/// Squared errors of q8_0 as its steps have them. A block of one value lies on its grid by luck, whatever the step.
inline double q8_0_steps(std::span<const float> row) {
  double sum = 0.0;
  for (std::size_t at = 0; at < row.size(); at += 32) {
    const auto block = row.subspan(at, std::min<std::size_t>(32, row.size() - at));
    double largest = 0.0;
    for (const float v : block) largest = std::max(largest, std::fabs(double{v}));
    sum += largest / 127.0 * largest / 127.0 / 12.0 * static_cast<double>(block.size());
  }
  return sum;
}

/// By how much more than its bound an error may be: the element type's rounding, and what a sum of floats loses.
inline double rounding_of(DType dtype) { return dtype == DType::kBf16 ? 0x1p-15 : dtype == DType::kF16 ? 0x1p-20 : 0x1p-40; }

}  // namespace cachecard::tests::pathological
