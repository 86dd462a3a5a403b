#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "codec/strip_encoder.hpp"
#include "fixture_values.hpp"
#include "kernel/entropy_encode.hpp"
#include "kernel/entropy_frequencies.hpp"

/// Every set of loops that encodes `entropy` against the scalar one, bit by bit.
namespace cachecard {
namespace {

using fixtures::Random;
using kernel::Lane;
using kernel::StripToken;

std::vector<Lane> draw_lanes(Random& random, std::size_t channels) {
  std::vector<Lane> lanes(channels);
  for (Lane& lane : lanes) {
    for (auto& level : lane.level) level = static_cast<std::uint8_t>(random.below(random.below(3) == 0 ? 32 : 20));
    lane.weight = {0, static_cast<std::uint8_t>(random.below(9)), static_cast<std::uint8_t>(random.below(9))};
    lane.shape = static_cast<std::uint8_t>(random.below(2));
  }
  return lanes;
}

std::vector<StripToken> draw_tokens(Random& random, std::size_t count) {
  std::vector<StripToken> tokens(count);
  for (std::size_t t = 0; t < count; ++t) {
    if (random.below(9) == 0) continue;
    tokens[t].coded = 1;
    tokens[t].multiplier = kernel::kMultipliers[random.below(4) == 0 ? random.below(256) : 128 + random.below(16)];
    tokens[t].shift = static_cast<std::int8_t>(static_cast<std::int32_t>(random.below(16)) - 8);
    tokens[t].distance = static_cast<std::uint16_t>(random.below(std::min<std::size_t>(t, 70) + 1));
    tokens[t].reference = tokens[t].distance == 0 ? 0 : static_cast<std::uint8_t>(1 + random.below(2));
  }
  return tokens;
}

float draw(Random& random) { return static_cast<float>(random.below(20001)) / 10000.0f - 1.0f; }

/// Values of all magnitudes, most of them around `width`.
std::vector<float> draw_values(Random& random, std::size_t count, float width) {
  std::vector<float> values(count);
  for (float& v : values) {
    v = width * draw(random);
    const std::size_t kind = random.below(60);
    if (kind == 0) v = std::ldexp(v, static_cast<int>(random.below(60)) - 30);
    if (kind == 1) v = 0.0f;
    if (kind == 2) v = -0.0f;
    if (kind == 3) v = std::nearbyint(8.0f * v) / 16.0f;  // half way between steps
  }
  return values;
}

struct Words {
  StripBuffers buffers;
  kernel::StripSymbols symbols;
  std::vector<std::uint16_t> words() const { return {symbols.words, symbols.words + symbols.word_count}; }
  std::vector<std::uint32_t> keys() const { return {symbols.keys, symbols.keys + symbols.escape_count}; }
  std::vector<std::int16_t> escapes() const { return {symbols.escapes, symbols.escapes + symbols.escape_count}; }
};

constexpr std::size_t kShapes[][2] = {{64, 1}, {64, 65}, {64, 300}, {63, 65}, {33, 129}, {32, 40}, {8, 40}, {1, 70}};

}  // namespace

TEST_CASE("entropy: every set of loops quantises alike", "[unit]") {
  Random random("entropy quantisers");
  std::size_t missed_by_some = 0;
  for (const auto& [channels, count] : kShapes) {
    for (const float reach : {kRowReach, 0.94f * kRowReach, 700.0f}) {
      for (const float width : {1.0f, 3.0f, 400.0f}) {
        const std::size_t stride = channels + random.below(90);
        const auto values = draw_values(random, count * stride + 64, width);
        const auto tokens = draw_tokens(random, count);
        kernel::LaneArrays lanes;
        const auto drawn = draw_lanes(random, channels);
        for (std::size_t c = 0; c < channels; ++c) {
          lanes.inverse[c] = random.below(3) == 0 ? 64.0f : 64.0f / (0.3f + 0.03f * static_cast<float>(random.below(60)));
          for (std::size_t k = 1; k < 3; ++k) lanes.weight[k][c] = drawn[c].weight[k];
        }
        const kernel::StripValues strip{values.data(), stride};
        std::vector<std::int16_t> index(count * 64, 9), rows(count * 64, 9);
        std::vector<std::uint8_t> missed(count);
        const auto& scalar = kernel::entropy_scalar();
        const std::size_t misses = scalar.quantise_strip(lanes, tokens, strip, reach, index.data(), rows.data(), missed.data());
        missed_by_some += misses > 0;
        CHECK(misses == static_cast<std::size_t>(std::count(missed.begin(), missed.end(), 1)));
        for (const kernel::EntropyKernels* set : kernel::entropy_targets()) {
          INFO(set->name << ", " << channels << " channels, " << count << " tokens, reach " << reach << ", width " << width);
          std::vector<std::int16_t> own_index(count * 64, 7), own_rows(count * 64, 7);
          std::vector<std::uint8_t> own_missed(count);
          CHECK(set->quantise_strip(lanes, tokens, strip, reach, own_index.data(), own_rows.data(), own_missed.data()) == misses);
          CHECK(own_index == index);
          CHECK(own_rows == rows);
          CHECK(own_missed == missed);
          CHECK(set->quantise_strip(lanes, tokens, strip, reach, own_index.data(), own_rows.data(), nullptr) == misses);
        }
        // What it says is so: rows are those of a decoder, and met within half a step where nothing was missed.
        for (std::size_t t = 0; t < count; ++t) {
          for (std::size_t c = 0; c < 64; ++c) {
            const std::size_t at = t * 64 + c;
            if (tokens[t].coded == 0 || c >= channels) {
              REQUIRE((index[at] == 0 && rows[at] == 0));
              continue;
            }
            const std::int32_t r = tokens[t].reference == 0 ? 0 : rows[at - tokens[t].distance * 64u];
            REQUIRE(rows[at] == kernel::row_value(lanes.weight[tokens[t].reference][c], r, tokens[t].multiplier, index[at]));
            if (missed[t] != 0) continue;
            const float target = values[t * stride + c] * lanes.inverse[c];
            REQUIRE(std::abs(target - static_cast<float>(rows[at])) <= static_cast<float>(tokens[t].multiplier) / 16.0f + 1.0f);
            REQUIRE(std::abs(target) <= reach);
          }
        }
      }
    }
  }
  CHECK(missed_by_some > 10);
}

TEST_CASE("entropy: every set of loops writes the same words", "[unit]") {
  Random random("entropy words");
  std::size_t escapes = 0;
  for (int round = 0; round < 6; ++round) {
    for (const auto& [channels, count] : kShapes) {
      const auto lanes = draw_lanes(random, channels);
      const auto tokens = draw_tokens(random, count);
      std::vector<std::int16_t> index(count * 64);
      for (std::int16_t& i : index) {
        const auto magnitude = static_cast<std::int16_t>(random.below(random.below(50) == 0 ? 32768 : 1 + random.below(40)));
        i = random.below(2) == 0 ? magnitude : static_cast<std::int16_t>(-magnitude);
      }
      Words expected;
      expected.symbols = expected.buffers.symbols(count);
      kernel::entropy_scalar().encode_strip(lanes, tokens, index.data(), expected.symbols);
      escapes += expected.symbols.escape_count;
      for (const kernel::EntropyKernels* set : kernel::entropy_targets()) {
        INFO(set->name << ", " << channels << " channels, " << count << " tokens, round " << round);
        Words found;
        found.symbols = found.buffers.symbols(count);
        set->encode_strip(lanes, tokens, index.data(), found.symbols);
        CHECK(found.words() == expected.words());
        CHECK(found.keys() == expected.keys());
        CHECK(found.escapes() == expected.escapes());
        for (std::uint32_t c = 0; c < channels; ++c) {
          const std::uint32_t s = c / 2 + c % 2 * 32;
          CHECK(found.symbols.states[s] == expected.symbols.states[s]);
        }
      }
    }
  }
  CHECK(escapes > 1000);
}

TEST_CASE("entropy: every symbol of every table is put and taken", "[unit]") {
  // Lanes of one table each, and all its symbols many times: states meet all frequencies, the least and the largest.
  Random random("entropy symbols");
  for (std::uint32_t table = 0; table < kernel::kTableCount; ++table) {
    std::vector<Lane> lanes(64);
    for (Lane& lane : lanes) {
      lane.shape = static_cast<std::uint8_t>(table / 12);
      lane.level.fill(static_cast<std::uint8_t>(8 + table % 12));
    }
    StripToken coded;
    coded.coded = 1;
    coded.multiplier = 512;
    const std::vector<StripToken> tokens(200, coded);
    std::vector<std::int16_t> index(tokens.size() * 64), rows(index.size());
    for (std::int16_t& i : index) {
      i = static_cast<std::int16_t>(static_cast<std::int32_t>(random.below(65)) - 32);
      if (random.below(3) == 0) i = 0;
    }
    Words expected;
    expected.symbols = expected.buffers.symbols(tokens.size());
    kernel::entropy_scalar().encode_strip(lanes, tokens, index.data(), expected.symbols);
    for (const kernel::EntropyKernels* set : kernel::entropy_targets()) {
      INFO(set->name << ", table " << table);
      Words found;
      found.symbols = found.buffers.symbols(tokens.size());
      set->encode_strip(lanes, tokens, index.data(), found.symbols);
      CHECK(found.words() == expected.words());
      CHECK(found.symbols.states == expected.symbols.states);
      auto words = found.words();
      const auto word_count = static_cast<std::uint32_t>(words.size());
      std::reverse(words.begin(), words.end());
      words.resize(words.size() + kernel::kWordPadding);
      auto keys = found.keys();
      auto escapes = found.escapes();
      std::reverse(keys.begin(), keys.end());
      std::reverse(escapes.begin(), escapes.end());
      const kernel::Strip strip{64,   lanes.data(), found.symbols.states.data(), words.data(), word_count, keys,
                                escapes.data()};
      CHECK(kernel::name_of(set->decode_strip(strip, tokens, rows.data())) == "whole");
      bool same = true;
      for (std::size_t i = 0; i < rows.size(); ++i) same &= rows[i] == 64 * index[i];
      CHECK(same);
    }
  }
}

TEST_CASE("entropy: every set of loops takes the same sums", "[unit]") {
  Random random("entropy sums");
  for (const auto& [channels, count] : kShapes) {
    INFO(channels << " channels, " << count << " tokens");
    const auto tokens = draw_tokens(random, count);
    const auto values = draw_values(random, count * (channels + 5) + 64, 2.0f);
    const kernel::StripValues strip{values.data(), channels + 5};
    std::vector<float> squared(64);
    for (std::size_t c = 0; c < channels; ++c) squared[c] = 0.01f * draw(random) * draw(random);
    std::vector<kernel::CostToken> sample;
    std::vector<std::int16_t> index(count * 64);
    std::vector<std::uint8_t> first_level(64);
    std::vector<std::uint16_t> costs((2 * kernel::kMostCostIndex + 1) * 2 * kernel::kCostSums);
    for (std::uint32_t t = 0; t < count; ++t) {
      if (tokens[t].coded != 0) sample.push_back({t, tokens[t].shift - kernel::kLeastCostSum});
    }
    for (auto& i : index) i = static_cast<std::int16_t>(random.below(40) == 0 ? random.next() : random.below(9) - 4);
    for (auto& level : first_level) level = static_cast<std::uint8_t>(random.below(25));
    for (auto& cost : costs) cost = static_cast<std::uint16_t>(random.below(18000));
    const std::vector<float> origin(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(channels));
    const auto rows = std::span(values).first(count * channels);
    struct Sums {
      kernel::WeightSums weights;
      kernel::CostSums costs{};
      std::vector<double> sums, squares;
    };
    const std::size_t width = channels;  // clang 14 captures no structured bindings
    const auto sums_of = [&](const kernel::EntropyKernels& set) {
      Sums sums;
      sums.sums.assign(width, 0.25);
      sums.squares.assign(width, 0.5);
      set.add_products(tokens, strip, squared.data(), sums.weights);
      set.add_costs(costs.data(), sample, index.data(), first_level.data(), sums.costs);
      set.add_moments(rows, origin, sums.sums.data(), sums.squares.data());
      return sums;
    };
    const Sums expected = sums_of(kernel::entropy_scalar());
    for (const kernel::EntropyKernels* set : kernel::entropy_targets()) {
      INFO(set->name);
      const Sums found = sums_of(*set);
      CHECK(found.weights.product == expected.weights.product);
      CHECK(found.weights.square == expected.weights.square);
      CHECK(found.costs == expected.costs);
      CHECK(found.sums == expected.sums);
      CHECK(found.squares == expected.squares);
    }
  }
}

TEST_CASE("entropy: every set of loops finds the same energies, and what is not finite", "[unit]") {
  Random random("entropy energies");
  constexpr float kInfinite = std::numeric_limits<float>::infinity();
  const std::vector<std::vector<std::uint32_t>> heads{{64}, {128}, {80}, {7}, {1}, {32, 64}, {16, 33}, {256}};
  for (const auto& widths : heads) {
    std::size_t head = 0;
    for (const std::uint32_t width : widths) head += width;
    const std::size_t units = 3 * widths.size();
    auto row = draw_values(random, 3 * head, 2.0f);
    const auto check = [&](bool is_finite) {
      std::vector<float> expected(units * 5);
      CHECK(kernel::entropy_scalar().row_energy(row, widths, expected.data(), 5) == is_finite);
      for (const kernel::EntropyKernels* set : kernel::entropy_targets()) {
        INFO(set->name << ", head of " << head);
        std::vector<float> found(units * 5);
        CHECK(set->row_energy(row, widths, found.data(), 5) == is_finite);
        CHECK(set->row_energy(row, widths, nullptr, 0) == is_finite);
        if (is_finite) CHECK(found == expected);
      }
    };
    check(true);
    for (const float wrong : {kInfinite, -kInfinite, std::numeric_limits<float>::quiet_NaN()}) {
      const std::size_t at = random.below(row.size());
      const float before = std::exchange(row[at], wrong);
      check(false);
      row[at] = before;
    }
    row.back() = kInfinite;
    check(false);
  }
}

}  // namespace cachecard
