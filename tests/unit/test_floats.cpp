#include <catch2/catch.hpp>
#include <cmath>
#include <limits>

#include "fixture_values.hpp"
#include "kernel/floats.hpp"
#include "reference_decode.hpp"

using namespace cachecard;
using kernel::bf16_from_f32;
using kernel::f16_from_f32;
using kernel::f32_from_bf16;
using kernel::f32_from_f16;

namespace {

std::uint32_t bits_of(float value) { return std::bit_cast<std::uint32_t>(value); }

/// The nearest of all finite values of a 16-bit format, ties to the even one; by distance in f64, which is
/// exact.
struct Format {
  int mantissa_bits;
  int min_exponent;  ///< of the smallest subnormal
  double overflow;   ///< from here on: infinity
  std::uint16_t infinity;
};
constexpr Format kHalf{10, -24, 65520.0, 0x7C00};
constexpr Format kBrain{7, -133, 3.3961775292304957e38, 0x7F80};

std::uint16_t slow_round(const Format& format, float value) {
  const auto sign = static_cast<std::uint16_t>(bits_of(value) >> 16 & 0x8000u);
  const double magnitude = std::fabs(static_cast<double>(value));
  if (magnitude >= format.overflow) return static_cast<std::uint16_t>(sign | format.infinity);
  if (magnitude == 0) return sign;
  const int exponent = std::max(std::ilogb(magnitude) - format.mantissa_bits, format.min_exponent);
  const double steps = std::ldexp(magnitude, -exponent);
  double whole = std::floor(steps);
  const double rest = steps - whole;
  if (rest > 0.5 || (rest == 0.5 && std::fmod(whole, 2.0) == 1.0)) whole += 1;
  const auto above = static_cast<std::uint32_t>(exponent - format.min_exponent) << format.mantissa_bits;
  return static_cast<std::uint16_t>(sign | (above + static_cast<std::uint32_t>(whole)));
}

std::vector<float> hard_cases() {
  std::vector<float> values;
  for (std::uint32_t half = 0; half < 0x7C00; ++half) {
    const float here = f32_from_f16(static_cast<std::uint16_t>(half));
    const float next = half + 1 < 0x7C00 ? f32_from_f16(static_cast<std::uint16_t>(half + 1)) : 65536.0f;
    const float middle = here + (next - here) / 2;  // exact
    for (float v : {here, middle, std::nextafter(middle, 0.0f), std::nextafter(middle, 1e9f)})
      values.push_back(v);
  }
  fixtures::Random random("floats");
  for (int i = 0; i < 200000; ++i)
    values.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(random.next())));
  for (float v : {65519.996f, 65520.0f, 65504.0f, 1e30f, std::numeric_limits<float>::max(),
                  std::numeric_limits<float>::denorm_min(), std::numeric_limits<float>::infinity(), 0.0f}) {
    values.push_back(v);
  }
  return values;
}

}  // namespace

TEST_CASE("all 65,536 halfs convert by their definition and come back", "[unit]") {
  for (std::uint32_t i = 0; i < 65536; ++i) {
    const auto half = static_cast<std::uint16_t>(i);
    const float value = f32_from_f16(half);
    if (bits_of(value) != bits_of(fixtures::reference_f16(half))) FAIL("f16 " << i);
    const bool nan = (half & 0x7FFF) > 0x7C00;
    if (f16_from_f32(value) != (nan ? half | 0x200 : half)) FAIL("f16 back " << i);
    const bool brain_nan = (half & 0x7FFF) > 0x7F80;
    if (bf16_from_f32(f32_from_bf16(half)) != (brain_nan ? half | 0x40 : half)) FAIL("bf16 " << i);
  }
}

TEST_CASE("rounding to f16 and bf16 is to the nearest, ties to even", "[unit]") {
  for (float magnitude : hard_cases()) {
    for (float value : {magnitude, -magnitude}) {
      if (std::isnan(value)) continue;
      if (f16_from_f32(value) != slow_round(kHalf, value)) FAIL("f16 of bits " << bits_of(value));
      if (bf16_from_f32(value) != slow_round(kBrain, value)) FAIL("bf16 of bits " << bits_of(value));
    }
  }
}

TEST_CASE("NaN stays NaN, quiet and with its sign", "[unit]") {
  for (std::uint32_t bits : {0x7F800001u, 0x7FC00000u, 0xFF800001u, 0xFFFFFFFFu, 0x7F801FFFu}) {
    const float nan = std::bit_cast<float>(bits);
    CHECK((f16_from_f32(nan) & 0x7E00) == 0x7E00);
    CHECK((bf16_from_f32(nan) & 0x7FC0) == 0x7FC0);
    CHECK(f16_from_f32(nan) >> 15 == bits >> 31);
    CHECK(bf16_from_f32(nan) >> 15 == bits >> 31);
  }
}

TEST_CASE("the Hadamard transform is its own inverse and agrees with its definition", "[unit]") {
  fixtures::Random random("hadamard");
  for (std::size_t n = 1; n <= 256; n *= 2) {
    std::vector<float> values;
    for (std::size_t i = 0; i < 3 * n; ++i)
      values.push_back(static_cast<float>(static_cast<int>(random.below(2001)) - 1000) / 64);
    std::vector<float> turned = values;
    kernel::hadamard(turned, n);
    for (std::size_t group = 0; group < 3; ++group) {
      const auto expected =
          fixtures::reference_hadamard(std::span<const float>(values).subspan(group * n, n));
      for (std::size_t i = 0; i < n; ++i) CHECK(bits_of(turned[group * n + i]) == bits_of(expected[i]));
    }
    kernel::hadamard(turned, n);
    for (std::size_t i = 0; i < values.size(); ++i) CHECK(turned[i] == Approx(values[i]).margin(1e-4));
  }
}

TEST_CASE("a Hadamard transform of four is the one that the spec works out", "[unit]") {
  std::vector<float> values{1, 2, 3, 4};
  kernel::hadamard(values, 4);
  CHECK(values == std::vector<float>{5, -1, -2, 0});
}
