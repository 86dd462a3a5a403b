// Bits shared between streams: what an allocation must do whatever the weights.
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "cachecard/allocate.hpp"

using namespace cachecard;

namespace {

std::vector<StreamWeight> equal_streams(const std::vector<double>& sensitivities) {
  std::vector<StreamWeight> streams;
  for (const double sensitivity : sensitivities) streams.push_back({sensitivity, 1000});
  return streams;
}

double predicted(const std::vector<StreamWeight>& streams, const std::vector<std::uint8_t>& bits) {
  double sum = 0.0;
  for (std::size_t i = 0; i < streams.size(); ++i) sum += streams[i].sensitivity * std::ldexp(1.0, -2 * bits[i]);
  return sum;
}

double mean(const std::vector<StreamWeight>& streams, const std::vector<std::uint8_t>& bits) {
  double values = 0.0;
  double sum = 0.0;
  for (std::size_t i = 0; i < streams.size(); ++i) {
    values += static_cast<double>(streams[i].value_count);
    sum += static_cast<double>(streams[i].value_count) * bits[i];
  }
  return sum / values;
}

}  // namespace

TEST_CASE("streams that cost the same get the same", "[allocate]") {
  const auto bits = allocate_bits(equal_streams(std::vector<double>(60, 0.25)), 3.0);
  REQUIRE(bits);
  CHECK(*bits == std::vector<std::uint8_t>(60, 3));
}

TEST_CASE("a stream that costs four times as much gets a bit more", "[allocate]") {
  const auto bits = allocate_bits(equal_streams({64.0, 16.0, 4.0, 1.0}), 4.5);
  REQUIRE(bits);
  CHECK(*bits == std::vector<std::uint8_t>{6, 5, 4, 3});
}

TEST_CASE("no other whole bits under the same mean predict less error", "[allocate]") {
  std::mt19937 random(20261127);
  std::lognormal_distribution<double> costs(0.0, 2.0);
  for (int round = 0; round < 40; ++round) {
    const auto streams = equal_streams({costs(random), costs(random), costs(random), costs(random)});
    const double budget = 2.0 + 0.25 * (round % 17);
    const auto bits = allocate_bits(streams, budget);
    REQUIRE(bits);
    CHECK(mean(streams, *bits) <= budget + 1e-9);
    double least = std::numeric_limits<double>::infinity();
    for (int code = 0; code < 7 * 7 * 7 * 7; ++code) {
      std::vector<std::uint8_t> other;
      for (int i = 0, rest = code; i < 4; ++i, rest /= 7) other.push_back(static_cast<std::uint8_t>(2 + rest % 7));
      if (mean(streams, other) <= budget + 1e-9) least = std::min(least, predicted(streams, other));
    }
    CHECK(predicted(streams, *bits) == Approx(least).epsilon(1e-12));
  }
}

TEST_CASE("wide streams pay for what they take", "[allocate]") {
  const std::vector<StreamWeight> streams{{1.0, 100}, {1.0, 900}, {0.0, 0}};
  const auto bits = allocate_bits(streams, 3.0);
  REQUIRE(bits);
  CHECK((*bits)[0] > (*bits)[1]);
  CHECK((*bits)[2] == 2);  // no values, no bits taken
  CHECK(mean(streams, *bits) <= 3.0 + 1e-9);
}

TEST_CASE("budgets meet their bounds", "[allocate]") {
  const auto streams = equal_streams({9.0, 1.0});
  CHECK(*allocate_bits(streams, 8.0) == std::vector<std::uint8_t>{8, 8});
  CHECK(*allocate_bits(streams, 8.0, 7) == std::vector<std::uint8_t>{7, 7});
  CHECK(*allocate_bits(streams, 1.0) == std::vector<std::uint8_t>{1, 1});
  CHECK(*allocate_bits(streams, 1.5) == std::vector<std::uint8_t>{2, 1});
}

TEST_CASE("weights and budgets that mean nothing are refused", "[allocate]") {
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  CHECK(allocate_bits(equal_streams({1.0, -1.0}), 3.0).error().code == ErrorCode::kInvalidArgument);
  CHECK(allocate_bits(equal_streams({1.0, kNan}), 3.0).error().code == ErrorCode::kInvalidArgument);
  CHECK(allocate_bits(equal_streams({1.0}), kNan).error().code == ErrorCode::kInvalidArgument);
  CHECK(allocate_bits(equal_streams({1.0}), 0.9).error().code == ErrorCode::kInvalidArgument);
  CHECK(allocate_bits(equal_streams({1.0}), 8.1).error().code == ErrorCode::kInvalidArgument);
  CHECK(allocate_bits(equal_streams({1.0}), 3.0, 9).error().code == ErrorCode::kInvalidArgument);
  CHECK(allocate_bits({}, 3.0).error().code == ErrorCode::kInvalidArgument);
}
