#include <catch2/catch.hpp>
#include <cstring>
#include <vector>

#include "codec/strip_encoder.hpp"
#include "fixture_values.hpp"
#include "kernel/entropy.hpp"
#include "kernel/entropy_frequencies.hpp"

/// Every set of loops of `entropy` against the scalar one, bit by bit.
namespace cachecard {
namespace {

using fixtures::Random;
using kernel::Lane;
using kernel::StripToken;

/// A strip with all that it needs, encoded.
struct Case {
  std::vector<Lane> lanes;
  std::vector<StripToken> tokens;
  std::vector<std::int16_t> index;
  std::vector<std::int16_t> rows;  ///< by the definition, not by a kernel
  std::vector<std::byte> payload;
  std::vector<std::uint32_t> states;
  std::vector<std::uint32_t> keys;
  std::vector<std::int16_t> escapes;
  std::vector<std::uint16_t> words;  ///< padded
  std::uint32_t word_count = 0;

  kernel::Strip strip() const {
    kernel::Strip s;
    s.channels = static_cast<std::uint32_t>(lanes.size());
    s.lanes = lanes.data();
    s.states = states.data();
    s.words = words.data();
    s.word_count = word_count;
    s.escape_keys = keys;
    s.escapes = escapes.data();
    return s;
  }
};

template <class T>
std::vector<T> take(std::span<const std::byte>& bytes, std::size_t count) {
  std::vector<T> out(count);
  if (count > 0) std::memcpy(out.data(), bytes.data(), count * sizeof(T));
  bytes = bytes.subspan(count * sizeof(T));
  return out;
}

/// Payload and its parts, of lanes, tokens and indices.
void encode(Case& c) {
  const StripPayload payload = encode_strip(c.lanes, c.tokens, c.index);
  std::span<const std::byte> bytes = payload.bytes;
  c.states = take<std::uint32_t>(bytes, c.lanes.size());
  c.keys = take<std::uint32_t>(bytes, payload.escape_count);
  c.escapes = take<std::int16_t>(bytes, payload.escape_count);
  c.words = take<std::uint16_t>(bytes, payload.word_count);
  CHECK(bytes.empty());
  c.word_count = payload.word_count;
  c.words.resize(c.words.size() + kernel::kWordPadding);
}

std::int16_t draw_index(Random& random, std::uint32_t level) {
  std::int32_t x = 0;
  const std::uint32_t wide = 1 + (level > 16 ? 1u << ((level - 14) / 2) : 2u);
  while (random.below(3) != 0 && x < 20000) x += static_cast<std::int32_t>(random.below(wide));
  if (random.below(400) == 0) x = static_cast<std::int32_t>(random.below(32768));
  return static_cast<std::int16_t>(random.below(2) == 0 ? x : -x);
}

Case make_case(Random& random, std::uint32_t channels, std::size_t token_count) {
  Case c;
  for (std::uint32_t i = 0; i < channels; ++i) {
    Lane& lane = c.lanes.emplace_back();
    for (auto& level : lane.level)
      level = static_cast<std::uint8_t>(random.below(random.below(3) == 0 ? 32 : 18));
    lane.weight = {0, static_cast<std::uint8_t>(random.below(9)), static_cast<std::uint8_t>(random.below(9))};
    lane.shape = static_cast<std::uint8_t>(random.below(2));
  }
  c.index.resize(token_count * 64);
  c.rows.resize(token_count * 64);
  for (std::size_t t = 0; t < token_count; ++t) {
    StripToken token;
    token.coded = random.below(9) != 0;
    if (token.coded != 0) {
      token.multiplier = kernel::kMultipliers[random.below(256)];
      token.shift = static_cast<std::int8_t>(static_cast<std::int32_t>(random.below(16)) - 8);
      token.distance = static_cast<std::uint16_t>(random.below(std::min<std::size_t>(t, 70) + 1));
      token.reference = token.distance == 0 ? 0 : static_cast<std::uint8_t>(1 + random.below(2));
    }
    for (std::uint32_t i = 0; i < channels && token.coded != 0; ++i) {
      const std::size_t at = t * 64 + i;
      c.index[at] = draw_index(random, c.lanes[i].level[token.reference]);
      const std::int32_t r = token.reference == 0 ? 0 : c.rows[at - token.distance * 64u];
      c.rows[at] = kernel::row_value(c.lanes[i].weight[token.reference], r, token.multiplier, c.index[at]);
    }
    c.tokens.push_back(token);
  }
  encode(c);
  return c;
}

}  // namespace

TEST_CASE("entropy: each table adds up to its slots, and what escapes can be said", "[unit]") {
  for (const auto& f : kernel::kEntropyFrequencies) {
    std::uint32_t sum = f[0] + f[kernel::kEscape];
    for (std::size_t m = 1; m <= kernel::kLargestSymbol; ++m) sum += 2u * f[m];
    CHECK(sum == kernel::kTableSlots);
    CHECK(f[kernel::kEscape] > 0);
    CHECK(f[0] < kernel::kTableSlots);
  }
}

TEST_CASE("entropy: every set of loops decodes what was encoded", "[unit]") {
  Random random("entropy kernels");
  for (const std::uint32_t channels : {64u, 64u, 64u, 63u, 33u, 32u, 8u, 1u}) {
    for (const std::size_t tokens : {1u, 2u, 65u, 300u}) {
      const Case c = make_case(random, channels, tokens);
      for (const kernel::EntropyKernels* set : kernel::entropy_targets()) {
        INFO(set->name << ", " << channels << " channels, " << tokens << " tokens");
        std::vector<std::int16_t> rows(c.rows.size(), 77);
        CHECK(kernel::name_of(set->decode_strip(c.strip(), c.tokens, rows.data())) == "whole");
        CHECK(rows == c.rows);
      }
      // What was decoded says what was coded, but for rows that saturated.
      std::vector<std::int16_t> index(c.index.size());
      index_of_rows(c.lanes, c.tokens, c.rows, index);
      const StripPayload again = encode_strip(c.lanes, c.tokens, index);
      Case second = c;
      std::span<const std::byte> bytes = again.bytes;
      second.states = take<std::uint32_t>(bytes, channels);
      second.keys = take<std::uint32_t>(bytes, again.escape_count);
      second.escapes = take<std::int16_t>(bytes, again.escape_count);
      second.words = take<std::uint16_t>(bytes, again.word_count);
      second.words.resize(second.words.size() + kernel::kWordPadding);
      second.word_count = again.word_count;
      std::vector<std::int16_t> rows(c.rows.size());
      CHECK(kernel::name_of(kernel::entropy_scalar().decode_strip(second.strip(), c.tokens, rows.data())) ==
            "whole");
      CHECK(rows == c.rows);
    }
  }
}

TEST_CASE("entropy: every set of loops finds every symbol of every table", "[unit]") {
  // All lanes have one table, each in turn; then all tables stand side by side.
  const std::size_t token_count = 2 * 64;
  for (std::uint32_t mix = 0; mix <= kernel::kTableCount; ++mix) {
    Case c;
    for (std::uint32_t i = 0; i < 64; ++i) {
      const std::uint32_t table = mix < kernel::kTableCount ? mix : i % kernel::kTableCount;
      Lane& lane = c.lanes.emplace_back();
      lane.shape = static_cast<std::uint8_t>(table / 12);
      lane.level.fill(static_cast<std::uint8_t>(8 + table % 12));
    }
    c.tokens.resize(token_count);
    c.index.resize(token_count * 64);
    c.rows.resize(token_count * 64);
    for (std::size_t t = 0; t < token_count; ++t) {
      c.tokens[t].coded = 1;
      c.tokens[t].multiplier = 8;
      for (std::size_t i = 0; i < 64; ++i) {
        // 64 tokens of all symbols and escapes, then 64 in which one lane alone is not zero.
        const std::size_t number = t < 64 ? (t + i) % 64 : i + 64 == t ? (7 * t) % 64 : 31;
        c.index[t * 64 + i] = static_cast<std::int16_t>(number == 63 ? 500 : static_cast<int>(number) - 31);
        c.rows[t * 64 + i] = kernel::row_value(0, 0, 8, c.index[t * 64 + i]);
      }
    }
    encode(c);
    for (const kernel::EntropyKernels* set : kernel::entropy_targets()) {
      INFO(set->name << ", table " << mix);
      std::vector<std::int16_t> rows(c.rows.size(), 77);
      CHECK(kernel::name_of(set->decode_strip(c.strip(), c.tokens, rows.data())) == "whole");
      CHECK(rows == c.rows);
    }
  }
}

TEST_CASE("entropy: strips side by side end as each by itself does", "[unit]") {
  Random random("strips side by side");
  for (int round = 0; round < 60; ++round) {
    std::vector<Case> cases;
    const std::size_t token_count = 1 + random.below(90);
    for (std::uint64_t n = 1 + random.below(5); n > 0; --n) {
      Case& c = cases.emplace_back(make_case(random, random.below(8) == 0 ? 40 : 64, token_count));
      if (cases.size() > 1 && random.below(4) != 0) {  // of the same tokens
        c.tokens = cases[0].tokens;
        encode(c);
      }
      if (c.word_count > 0 && random.below(5) == 0) c.words[random.below(c.word_count)] ^= 0x1000u;
    }
    for (const kernel::EntropyKernels* set : kernel::entropy_targets()) {
      std::vector<std::vector<std::int16_t>> rows(cases.size(), std::vector<std::int16_t>(token_count * 64, 77));
      std::vector<kernel::StripTask> tasks;
      for (std::size_t i = 0; i < cases.size(); ++i) tasks.push_back({cases[i].strip(), cases[i].tokens, rows[i].data()});
      set->decode_strips(tasks);
      for (std::size_t i = 0; i < cases.size(); ++i) {
        INFO(set->name << ", round " << round << ", strip " << i);
        std::vector<std::int16_t> expected(token_count * 64);
        const auto outcome = kernel::entropy_scalar().decode_strip(cases[i].strip(), cases[i].tokens, expected.data());
        CHECK(tasks[i].outcome == outcome);
        if (outcome == kernel::StripOutcome::kWhole) CHECK(rows[i] == expected);
      }
    }
  }
}

TEST_CASE("entropy: a damaged strip ends in an error, the same in every set", "[unit]") {
  Random random("damaged strips");
  std::size_t refused = 0;
  for (int round = 0; round < 400; ++round) {
    Case c = make_case(random, random.below(4) == 0 ? 40 : 64, 40);
    switch (random.below(6)) {
      case 0:
        c.states[random.below(c.states.size())] = static_cast<std::uint32_t>(random.next());
        break;
      case 1:
        c.words[random.below(c.word_count)] ^= static_cast<std::uint16_t>(1u << random.below(16));
        break;
      case 2:
        c.word_count = static_cast<std::uint32_t>(random.below(c.word_count));
        break;
      case 3:
        c.states[random.below(c.states.size())] = static_cast<std::uint32_t>(random.below(65536));
        break;
      case 4:
        c.keys.push_back(static_cast<std::uint32_t>(39 * 64 + 63));
        c.escapes.push_back(5);
        break;
      default:
        if (c.keys.empty()) continue;
        c.keys.pop_back();
        c.escapes.pop_back();
    }
    std::vector<std::int16_t> expected(c.rows.size());
    const auto outcome = kernel::entropy_scalar().decode_strip(c.strip(), c.tokens, expected.data());
    refused += outcome != kernel::StripOutcome::kWhole;
    for (const kernel::EntropyKernels* set : kernel::entropy_targets()) {
      INFO(set->name << ", round " << round);
      std::vector<std::int16_t> rows(c.rows.size());
      CHECK(set->decode_strip(c.strip(), c.tokens, rows.data()) == outcome);
      if (outcome == kernel::StripOutcome::kWhole) CHECK(rows == expected);
    }
  }
  CHECK(refused > 300);
}

TEST_CASE("entropy: every set of loops puts out the same values", "[unit]") {
  Random random("entropy values");
  std::vector<std::int16_t> rows(5 * 64);
  std::vector<float> scale(64), mean(64), angles(5 * 96);
  const auto draw = [&](float width) {
    return width * (static_cast<float>(random.below(20001)) / 10000.0f - 1.0f);
  };
  for (auto& row : rows) row = static_cast<std::int16_t>(random.next());
  for (std::size_t c = 0; c < 64; ++c) {
    scale[c] = 0.001f + 0.01f * static_cast<float>(c);
    mean[c] = draw(3.0f);
  }
  for (auto& angle : angles) angle = draw(1.0f);
  using Run = kernel::StripRun;
  const std::vector<std::vector<Run>> shapes{
      {Run{0, 64, 0, 0, false, 0}},
      {Run{0, 64, 4, 0, true, 0}},
      {Run{0, 64, 0, 48, true, 0}},
      {Run{0, 32, 16, 48, true, 16}, Run{32, 32, 0, 0, false, 0}},
      {Run{0, 6, 1, 10, true, 3}, Run{6, 20, 30, 0, false, 0}},
  };
  for (const auto& runs : shapes) {
    for (const DType dtype : {DType::kF16, DType::kBf16, DType::kF32}) {
      for (const float* means :
           {static_cast<const float*>(nullptr), static_cast<const float*>(mean.data())}) {
        kernel::StripOutput out{rows.data(), scale.data(), means, angles.data(), 96, runs};
        std::vector<std::byte> expected(5 * 1024), found(5 * 1024);
        kernel::entropy_scalar().put_strip(out, 5, expected.data(), 1024, dtype);
        for (const kernel::EntropyKernels* set : kernel::entropy_targets()) {
          INFO(set->name);
          std::fill(found.begin(), found.end(), std::byte{0});
          set->put_strip(out, 5, found.data(), 1024, dtype);
          CHECK(found == expected);
        }
      }
    }
  }
}

TEST_CASE("entropy: steps of lanes are sixteenths of an octave around 1", "[unit]") {
  CHECK(kernel::lane_step(128) == 1.0f);
  CHECK(kernel::lane_step(144) == 2.0f);
  CHECK(kernel::lane_step(0) == 0x1p-8f);
  CHECK(kernel::lane_step(255) == 0x1p7f * kernel::kSixteenthOctaves[15]);
  const Lane lane = kernel::open_lane(0xFEDCBA98u & ~(15u << 15) & ~(15u << 19));
  CHECK(kernel::pack_lane(lane) == (0xFEDCBA98u & ~(15u << 15) & ~(15u << 19)));
}

}  // namespace cachecard
