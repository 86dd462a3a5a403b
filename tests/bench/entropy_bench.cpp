// Times the loops of `entropy` on one core, each SIMD target forced, against memcpy of the output in the same run: strips of
// 64 channels, 2,048 tokens, to f16, with scales, means, RoPE on keys, and references for three of four tokens.
// Then such strips from values to rows and from indices to words.
//   entropy_bench [ROUNDS]

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <vector>

#include "codec/strip_encoder.hpp"
#include "kernel/entropy.hpp"
#include "kernel/entropy_frequencies.hpp"

using namespace cachecard;

namespace {

constexpr std::size_t kTokens = 2048;
constexpr std::size_t kStrips = 36;  ///< six layers of three heads, keys and values

struct Random {
  std::uint64_t state = 1;
  std::uint64_t next() {
    std::uint64_t z = (state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  std::uint64_t below(std::uint64_t bound) { return next() % bound; }
};

/// Of this thread: whoever else runs on the machine does not count.
double thread_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

template <class Work>
double best_of(int rounds, Work&& work) {
  double best = 1e9;
  for (int i = 0; i < rounds; ++i) {
    const double start = thread_seconds();
    work();
    best = std::min(best, thread_seconds() - start);
  }
  return best;
}

struct StripCase {
  std::vector<std::int16_t> index;
  std::vector<float> values;  ///< [token][64], of a lane step of 1
  std::vector<kernel::Lane> lanes{64};
  std::vector<kernel::StripToken> tokens{kTokens};
  std::vector<std::byte> payload;
  std::vector<std::uint32_t> states;
  std::vector<std::uint32_t> keys;
  std::vector<std::int16_t> escapes;
  std::vector<std::uint16_t> words;
  std::uint32_t word_count = 0;
};

/// Symbols as likely as the tables say: what a well fitted strip looks like. level: half octaves, 15 is a spread of one step.
StripCase make_strip(Random& random, std::uint32_t level, bool references, std::uint64_t escapes_in) {
  StripCase strip;
  const kernel::EntropyTables& tables = kernel::entropy_tables();
  for (kernel::Lane& lane : strip.lanes) {
    const auto l = static_cast<std::uint8_t>(level - 3 + random.below(6));
    lane.level = {l, static_cast<std::uint8_t>(l - 1), static_cast<std::uint8_t>(l - 2)};
    lane.weight = {0, 5, 7};
    lane.shape = static_cast<std::uint8_t>(random.below(2));
  }
  std::vector<std::int16_t>& index = strip.index;
  index.resize(kTokens * 64);
  std::vector<std::int16_t> rows(kTokens * 64);
  for (std::size_t t = 0; t < kTokens; ++t) {
    kernel::StripToken& token = strip.tokens[t];
    token.coded = t >= 4;
    token.multiplier = kernel::kMultipliers[16 * 8 + 8];
    if (references && t > 8 && random.below(4) != 0) {
      token.distance = static_cast<std::uint16_t>(1 + random.below(random.below(2) == 0 ? 8 : t - 4));
      token.reference = static_cast<std::uint8_t>(1 + random.below(2));
    }
    for (std::size_t c = 0; c < 64 && token.coded != 0; ++c) {
      const kernel::Lane& lane = strip.lanes[c];
      const auto table = kernel::lane_table(lane.level[token.reference], 0, lane.shape);
      const std::uint32_t slot = tables.slots[table.table * kernel::kTableSlots + random.below(kernel::kTableSlots)];
      std::int32_t symbol = static_cast<std::int32_t>(slot) >> 24;
      if (symbol == kernel::kEscape) symbol = random.below(escapes_in) == 0 ? 100 : 0;
      index[t * 64 + c] = static_cast<std::int16_t>(symbol * (1 << table.low_bits));
      const std::int32_t before = token.reference == 0 ? 0 : rows[(t - token.distance) * 64 + c];
      rows[t * 64 + c] = kernel::row_value(lane.weight[token.reference], before, token.multiplier, index[t * 64 + c]);
    }
  }
  for (const std::int16_t row : rows) strip.values.push_back(static_cast<float>(row) / 64.0f);
  const StripPayload payload = encode_strip(strip.lanes, strip.tokens, index);
  const std::byte* at = payload.bytes.data();
  const auto take = [&](auto& out, std::size_t count, std::size_t more) {
    out.resize(count + more);
    if (count > 0) std::memcpy(out.data(), at, count * sizeof(out[0]));
    at += count * sizeof(out[0]);
  };
  take(strip.states, 64, 0);
  take(strip.keys, payload.escape_count, 0);
  take(strip.escapes, payload.escape_count, 0);
  take(strip.words, payload.word_count, kernel::kWordPadding);
  strip.word_count = payload.word_count;
  return strip;
}

void run(const char* name, std::uint32_t level, bool references, std::uint64_t escapes_in, int rounds) {
  Random random;
  std::vector<StripCase> strips;
  double words = 0;
  for (std::size_t s = 0; s < kStrips; ++s) {
    strips.push_back(make_strip(random, level, references, escapes_in));
    words += strips.back().word_count;
  }
  std::vector<std::int16_t> rows(kTokens * 64);
  std::vector<std::byte> out(kStrips * kTokens * 128), other(out.size(), std::byte{1});
  const std::vector<float> scale(64, 0.01f), mean(64, 0.5f), angles(kTokens * 64, 0.7f);
  const std::vector<kernel::StripRun> plain{{0, 64, 0, 0, false, 0}}, turned{{0, 64, 0, 32, true, 0}};
  const double copy = best_of(rounds, [&] { std::memcpy(out.data(), other.data(), out.size()); });
  const double values = static_cast<double>(kStrips * kTokens * 64);
  for (const kernel::EntropyKernels* set : kernel::entropy_targets()) {
    const double seconds = best_of(rounds, [&] {
      for (std::size_t s = 0; s < kStrips; ++s) {
        const StripCase& c = strips[s];
        kernel::Strip strip{64, c.lanes.data(), c.states.data(), c.words.data(), c.word_count, c.keys, c.escapes.data()};
        if (set->decode_strip(strip, c.tokens, rows.data()) != kernel::StripOutcome::kWhole) std::abort();
        const bool key = s % 2 == 0;
        kernel::StripOutput put{rows.data(), scale.data(), key ? mean.data() : nullptr, angles.data(), 64, key ? turned : plain};
        set->put_strip(put, kTokens, out.data() + (s / 2) * kTokens * 256 + (key ? 0 : 128), 256, DType::kF16);
      }
    });
    std::printf("%-26s %-7s %5.2f bits  %5.2f G values/s  %5.2f GB/s written  %5.3f of memcpy (%.1f GB/s)\n", name, set->name,
                16.0 * words / values, values / seconds * 1e-9, 2.0 * values / seconds * 1e-9, copy / seconds,
                2.0 * values / copy * 1e-9);
  }
}

/// Strips from values to words.
void run_encode(const char* name, std::uint32_t level, int rounds) {
  Random random;
  std::vector<StripCase> strips;
  for (std::size_t s = 0; s < kStrips; ++s) strips.push_back(make_strip(random, level, true, 1u << 30));
  std::vector<std::int16_t> index(kTokens * 64), rows(kTokens * 64);
  StripBuffers buffers;
  const double values = static_cast<double>(kStrips * kTokens * 64);
  for (const kernel::EntropyKernels* set : kernel::entropy_targets()) {
    double words = 0;
    const auto quantise = [&](const StripCase& c) {
      kernel::LaneArrays lanes;
      lanes.inverse.fill(64.0f);
      for (std::size_t i = 0; i < 64; ++i) {
        for (std::size_t k = 1; k < 3; ++k) lanes.weight[k][i] = c.lanes[i].weight[k];
      }
      set->quantise_strip(lanes, c.tokens, {c.values.data()}, kRowReach, index.data(), rows.data(), nullptr);
    };
    const auto encode = [&](const StripCase& c) {
      kernel::StripSymbols symbols = buffers.symbols(kTokens);
      set->encode_strip(c.lanes, c.tokens, c.index.data(), symbols);
      words += static_cast<double>(symbols.word_count);
    };
    const double first = best_of(rounds, [&] { std::for_each(strips.begin(), strips.end(), quantise); });
    const double second = best_of(rounds, [&] { std::for_each(strips.begin(), strips.end(), encode); });
    std::printf("%-26s %-7s %5.2f bits  %5.2f G values/s to rows, %5.2f to words\n", name, set->name,
                16.0 * words / values / rounds, values / first * 1e-9, values / second * 1e-9);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 20;
  run("references", 13, true, 1u << 30, rounds);
  run("no references", 13, false, 1u << 30, rounds);
  run("references and escapes", 13, true, 1, rounds);
  run("references, 4 bits", 19, true, 1u << 30, rounds);
  run("references, raw low bits", 25, true, 1u << 30, rounds);
  run_encode("encode", 13, rounds);
  run_encode("encode, 4 bits", 19, rounds);
  run_encode("encode, raw low bits", 25, rounds);
}
