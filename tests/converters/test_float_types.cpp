#include <algorithm>
#include <bit>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "llama_cpp/float_types.hpp"

using namespace cachecard;
using namespace cachecard::llama_cpp;

namespace {

/// Value of a half, by its definition.
double half_value(std::uint16_t bits) {
  const int exponent = (bits >> 10) & 31;
  const double fraction = (bits & 0x3FF) / 1024.0;
  const double magnitude =
      exponent == 0 ? std::ldexp(fraction, -14) : std::ldexp(1.0 + fraction, exponent - 15);
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

/// The half nearest to a float, ties to even: found by looking at all of them.
std::uint16_t nearest_half(float value, const std::vector<double>& halves) {
  const double magnitude = std::fabs(static_cast<double>(value));
  std::uint16_t best = 0x7C00;
  if (magnitude < 65520.0) {
    const auto above = std::lower_bound(halves.begin(), halves.end(), magnitude);
    auto index = static_cast<std::size_t>(above - halves.begin());
    if (index == halves.size()) --index;
    if (index > 0) {
      const double low = magnitude - halves[index - 1];
      const double high = halves[index] - magnitude;
      if (low < high || (low == high && index % 2 == 1)) --index;
    }
    best = static_cast<std::uint16_t>(index);
  }
  return static_cast<std::uint16_t>(best | (std::signbit(value) ? 0x8000 : 0));
}

template <class To, class From>
std::vector<To> convert_all(DType from, DType to, const std::vector<From>& in, double* loss = nullptr) {
  std::vector<To> out(in.size());
  const double worst =
      convert_floats(from, to, std::as_bytes(std::span(in)), std::as_writable_bytes(std::span(out)));
  if (loss != nullptr) *loss = worst;
  return out;
}

}  // namespace

TEST_CASE("every half becomes its float and comes back", "[converters]") {
  std::vector<std::uint16_t> halves;
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) halves.push_back(static_cast<std::uint16_t>(bits));
  double loss = 1.0;
  const auto floats = convert_all<float>(DType::kF16, DType::kF32, halves, &loss);
  CHECK(loss == 0.0);
  for (std::size_t i = 0; i < halves.size(); ++i) {
    if ((halves[i] & 0x7C00) == 0x7C00) continue;
    REQUIRE(static_cast<double>(floats[i]) == half_value(halves[i]));
  }
  CHECK(std::isinf(floats[0x7C00]));
  CHECK(std::isnan(floats[0x7C01]));
  const auto back = convert_all<std::uint16_t>(DType::kF32, DType::kF16, floats);
  for (std::size_t i = 0; i < halves.size(); ++i) {
    if ((halves[i] & 0x7C00) == 0x7C00 && (halves[i] & 0x3FF) != 0) {
      REQUIRE((back[i] & 0x7C00) == 0x7C00);
      REQUIRE((back[i] & 0x3FF) != 0);
      continue;
    }
    REQUIRE(back[i] == halves[i]);
  }
}

TEST_CASE("floats round to the nearest half, ties to even", "[converters]") {
  std::vector<double> halves;
  for (std::uint16_t bits = 0; bits < 0x7C00; ++bits) halves.push_back(half_value(bits));
  std::vector<float> floats{65504.0f, 65519.9f,   65520.0f, 1e30f, 0x1p-24f,
                            0x1p-25f, 0x1.8p-25f, 6.1e-5f,  -0.0f};
  std::mt19937 random(7);
  for (int i = 0; i < 100000; ++i) {
    const auto bits = static_cast<std::uint32_t>(random());
    const std::uint32_t exponent = 100 + bits % 45;
    floats.push_back(std::bit_cast<float>((bits & 0x807FFFFFu) | exponent << 23));
  }
  for (std::size_t i = 0; i + 1 < halves.size(); i += 37) {
    floats.push_back(static_cast<float>((halves[i] + halves[i + 1]) / 2));
  }
  const auto rounded = convert_all<std::uint16_t>(DType::kF32, DType::kF16, floats);
  for (std::size_t i = 0; i < floats.size(); ++i) {
    INFO(floats[i]);
    REQUIRE(rounded[i] == nearest_half(floats[i], halves));
  }
}

TEST_CASE("floats round to the nearest bf16, ties to even", "[converters]") {
  double loss = 0.0;
  const std::vector<float> floats{1.0f, 1.00390625f, 1.01171875f, -3.3e38f,
                                  std::numeric_limits<float>::quiet_NaN()};
  const auto rounded = convert_all<std::uint16_t>(DType::kF32, DType::kBf16, floats, &loss);
  CHECK(rounded[0] == 0x3F80);
  CHECK(rounded[1] == 0x3F80);  // halfway between 0x3F80 and 0x3F81
  CHECK(rounded[2] == 0x3F82);  // halfway between 0x3F81 and 0x3F82
  CHECK((rounded[4] & 0x7FFF) > 0x7F80);
  const auto halves = convert_all<std::uint16_t>(DType::kBf16, DType::kF16, rounded);
  CHECK(halves[0] == 0x3C00);
  CHECK(halves[3] == 0xFC00);
}

TEST_CASE("the loss is the largest finite difference", "[converters]") {
  double loss = 0.0;
  const std::vector<float> floats{0.1f, 1000.25f, 1e30f, std::numeric_limits<float>::infinity()};
  convert_all<std::uint16_t>(DType::kF32, DType::kF16, floats, &loss);
  CHECK(loss == 0.25);
}

TEST_CASE("non-finite values are counted wherever they stand", "[converters]") {
  std::vector<std::uint16_t> halves(20000, 0x3C00);
  const auto count = [&](DType dtype) { return count_nonfinite(dtype, std::as_bytes(std::span(halves))); };
  CHECK(count(DType::kF16) == 0);
  halves[0] = 0x7C00;
  halves[8191] = 0xFC01;
  halves[19999] = 0x7FFF;
  CHECK(count(DType::kF16) == 3);
  CHECK(count(DType::kBf16) == 1);
  std::vector<float> floats(9000, 1.0f);
  CHECK(count_nonfinite(DType::kF32, std::as_bytes(std::span(floats))) == 0);
  floats[8999] = -std::numeric_limits<float>::infinity();
  CHECK(count_nonfinite(DType::kF32, std::as_bytes(std::span(floats))) == 1);
  std::vector<std::byte> blocks(24 * 3);  // q5_1: scale, minimum, 20 bytes
  CHECK(count_nonfinite(DType::kQ5_1, blocks) == 0);
  blocks[24 + 3] = std::byte{0x7C};
  CHECK(count_nonfinite(DType::kQ5_1, blocks) == 32);
  CHECK(count_nonfinite(DType::kQ8_0, std::span(blocks).first(68)) == 0);
}

TEST_CASE("transpose puts channels side by side", "[converters]") {
  const std::size_t rows = 130;
  const std::size_t channels = 70;
  std::vector<std::uint16_t> in(rows * channels);
  for (std::size_t i = 0; i < in.size(); ++i) in[i] = static_cast<std::uint16_t>(i);
  std::vector<std::uint16_t> out(rows * 20);
  transpose({2, channels, rows, 50, 20}, std::as_bytes(std::span(in)),
            std::as_writable_bytes(std::span(out)));
  for (std::size_t c = 0; c < 20; ++c) {
    for (std::size_t r = 0; r < rows; ++r) REQUIRE(out[c * rows + r] == in[r * channels + 50 + c]);
  }
}
