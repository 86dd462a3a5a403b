// What finding the bits takes for an 8B model's cache of 32,768 tokens: 32 layers, 8 KV heads of 128, 32 query heads, f16, RoPE.
// Rows come from a small bank, as from a file: the cache is never in memory. Each part in a process of its own, for its peak memory.
//   allocate_bench [ROUNDS [PART]]      one line of JSON for each part (offsets, search, centroids, newest), the best of its rounds

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string_view>
#include <thread>
#include <vector>

#include "cachecard/allocate.hpp"
#include "codec/byte_compressor.hpp"
#include "kernel/floats.hpp"
#include "writer/entropy_plan.hpp"

using namespace cachecard;

namespace {

constexpr std::uint32_t kLayers = 32, kHeads = 8, kQueryHeads = 32, kWidth = 128, kRank = 64, kCentroids = 16;
constexpr std::uint64_t kTokens = 32768, kSearchTokens = 1024, kBankRows = 1031;
constexpr std::size_t kElements = kHeads * kWidth;

struct Random {
  std::uint64_t state = 1;
  std::uint64_t next() {
    std::uint64_t z = (state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  float number() {  // about normal
    float sum = 0.0f;
    for (int i = 0; i < 4; ++i) sum += static_cast<float>(next() >> 40) * 0x1p-23f - 1.0f;
    return sum;
  }
};

class BankCache final : public CacheSource {
 public:
  explicit BankCache(std::uint64_t tokens) : bank_(kBankRows * kElements) {
    header_.layer_count = kLayers;
    header_.token_count = tokens;
    header_.next_position = static_cast<std::int64_t>(tokens);
    header_.segments.emplace_back().token_count = tokens;
    Random random;
    for (std::uint64_t t = 0; t < tokens; ++t) {
      ids_.push_back(static_cast<std::int32_t>(random.next() % 50000));
      positions_.push_back(static_cast<std::int32_t>(t));
    }
    table_.record.pairing = static_cast<std::uint8_t>(RopePairing::kHalfSplit);
    table_.record.rotated_width = kWidth;
    table_.record.pair_count = kWidth / 2;
    for (std::size_t p = 0; p < kWidth / 2; ++p) table_.inverse_frequencies.push_back(std::pow(500000.0, -static_cast<double>(p) / (kWidth / 2)));
    for (std::uint32_t layer = 0; layer < kLayers; ++layer) {
      for (const StreamKind kind : {StreamKind::kKey, StreamKind::kValue}) header_.streams.push_back(stream(layer, kind, tokens));
    }
    for (std::size_t i = 0; i < bank_.size(); ++i) bank_[i] = kernel::f16_from_f32(random.number() * (0.3f + static_cast<float>(i % 7) / 7.0f));
  }
  const CardHeader& header() const override { return header_; }
  std::span<const std::int32_t> token_ids() const override { return ids_; }
  std::span<const std::int32_t> positions() const override { return positions_; }
  const RopeTable* rope_table() const override { return &table_; }
  Status read_rows(std::size_t stream, std::uint64_t first, std::uint64_t count, std::span<std::byte> out) const override {
    for (std::uint64_t t = 0; t < count;) {
      const std::uint64_t row = (first + t + 97 * stream) % kBankRows;
      const std::uint64_t together = std::min(count - t, kBankRows - row);
      std::memcpy(out.data() + t * kElements * 2, bank_.data() + row * kElements, together * kElements * 2);
      t += together;
    }
    return {};
  }

 private:
  static StreamRecord stream(std::uint32_t layer, StreamKind kind, std::uint64_t tokens) {
    StreamRecord made;
    made.layer = layer;
    made.stream = static_cast<std::uint8_t>(kind);
    made.dtype = static_cast<std::uint8_t>(DType::kF16);
    made.kv_head_count = kHeads;
    made.head_dim = kWidth;
    made.token_count = tokens;
    if (kind == StreamKind::kValue) return made;
    made.rope_state = static_cast<std::uint8_t>(RopeState::kPostRope);
    made.rope_pairing = static_cast<std::uint8_t>(RopePairing::kHalfSplit);
    return made;
  }

  CardHeader header_;
  RopeTable table_;
  std::vector<std::int32_t> ids_;
  std::vector<std::int32_t> positions_;
  std::vector<std::uint16_t> bank_;
};

ModelProfile made_profile(const CardHeader& header) {
  ModelProfile profile;
  profile.header = header;
  Random random;
  const auto fill = [&](std::vector<float>& numbers, std::size_t count, float size) {
    numbers.resize(count);
    for (float& number : numbers) number = size * random.number();
  };
  for (std::uint32_t l = 0; l < kLayers; ++l) {
    ProfileLayer& layer = profile.layers.emplace_back();
    layer.record.layer = l;
    layer.record.kv_head_count = kHeads;
    layer.record.query_head_count = kQueryHeads;
    layer.record.key_dim = layer.record.value_dim = kWidth;
    layer.record.map_rank = kRank;
    layer.record.centroid_count = kCentroids;
    layer.record.attention_scale = 1.0f / std::sqrt(static_cast<float>(kWidth));
    layer.key_costs.assign(kHeads, 1.0f + static_cast<float>(l));
    layer.value_costs.assign(kHeads, 2.0f);
    layer.key_steps.assign(kElements, 128);
    fill(layer.map_down, kRank * layer.input_count(), 0.03f);
    fill(layer.map_up, layer.query_width() * kRank, 0.1f);
    fill(layer.centroids, std::size_t{kQueryHeads} * kCentroids * kWidth, 1.0f);
    layer.centroid_weights.assign(std::size_t{kQueryHeads} * kCentroids, 1.0f / kCentroids);
  }
  return profile;
}

ParallelFor two_threads() {
  ParallelFor parallel;
  parallel.width = 2;
  parallel.run = [](void*, std::size_t count, void (*task)(void*, std::size_t), void* context) {
    std::atomic<std::size_t> next = 0;
    const auto work = [&] {
      for (std::size_t i = next++; i < count; i = next++) task(context, i);
    };
    std::thread other(work);
    work();
    other.join();
  };
  return parallel;
}

double seconds_of(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

[[noreturn]] void fail(const Error& error) {
  std::fprintf(stderr, "allocate_bench: %s: %s\n", error.field.c_str(), error.detail.c_str());
  std::exit(1);
}

struct Seconds {
  double clock = 1e9;
  double processor = 1e9;  ///< of all threads: half of it is what two idle cores would take at least
};

/// Best seconds of some rounds.
template <class Work>
Seconds best_of(int rounds, Work&& work) {
  Seconds best;
  for (int i = 0; i < rounds; ++i) {
    const double clock = seconds_of(CLOCK_MONOTONIC);
    const double processor = seconds_of(CLOCK_PROCESS_CPUTIME_ID);
    work();
    best.clock = std::min(best.clock, seconds_of(CLOCK_MONOTONIC) - clock);
    best.processor = std::min(best.processor, seconds_of(CLOCK_PROCESS_CPUTIME_ID) - processor);
  }
  return best;
}

Seconds weigh(int rounds, QuerySource queries) {
  const BankCache cache(kTokens);
  const ModelProfile profile = made_profile(cache.header());
  WeighOptions options;
  options.queries = queries;
  options.parallel = two_threads();
  return best_of(rounds, [&] {
    if (const auto weights = profile_weights(cache, profile, options); !weights) fail(weights.error());
  });
}

Seconds centroids(int rounds) { return weigh(rounds, QuerySource::kCentroids); }
Seconds newest(int rounds) { return weigh(rounds, QuerySource::kMap); }

/// Gains and offsets out of costs and weights, what they gain, and the map as the file has it.
Seconds offsets(int rounds) {
  const BankCache cache(kTokens);
  const CardHeader& header = cache.header();
  Random random;
  TokenWeights weights{weight_rows(header), kTokens, std::vector<float>(weight_rows(header) * kTokens)};
  for (float& weight : weights.values) weight = std::exp2(random.number());
  std::vector<double> costs(BitWidthMap::first_use(header, header.streams.size()));
  for (double& cost : costs) cost = std::exp2(2.0 * static_cast<double>(random.number()));
  return best_of(rounds, [&] {
    EntropyOptions entropy;
    entropy.gains = step_gains(costs);
    if (!use_offsets(header, head_offsets(header, weights), 64, entropy).used) std::exit(1);
    BitWidthMap map = uniform_map(header, kTokens);
    map.rows = std::move(entropy.token_offsets);
    for (std::size_t use = 0; use < map.row_of.size(); ++use) map.row_of[use] = static_cast<std::uint16_t>(use);
    const auto packed = compress(Compressor::kZstd, encode_map(map), 1, CardOptions().zstd_level);
    if (!packed) fail(packed.error());
  });
}

/// The search for the step that meets the budget, which looks at as many rows whatever the context; reading them is in it.
Seconds search(int rounds) {
  const BankCache cache(kSearchTokens);
  CardOptions options;
  options.entropy.emplace().bits = 1.2;
  options.parallel = two_threads();
  return best_of(rounds, [&] {
    EntropyPlan plan(cache, cache.header(), options);
    if (const Status s = plan.prepare(0, 1, 1); !s) fail(s.error());
  });
}

struct Part {
  const char* name;
  Seconds (*run)(int rounds);
};

/// In a process of its own: ru_maxrss only grows.
bool run(const Part& part, int rounds) {
  const pid_t child = fork();
  if (child == 0) {
    const Seconds seconds = part.run(rounds);
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    std::printf("{\"part\": \"%s\", \"seconds\": %.3f, \"processor_seconds\": %.3f, \"peak_mb\": %.1f}\n", part.name, seconds.clock,
                seconds.processor, static_cast<double>(usage.ru_maxrss) * 1024e-6);
    std::fflush(stdout);
    _exit(0);
  }
  int status = 0;
  return child > 0 && waitpid(child, &status, 0) == child && status == 0;
}

}  // namespace

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::max(1, std::atoi(argv[1])) : 3;
  for (const Part& part : {Part{"offsets", offsets}, {"search", search}, {"centroids", centroids}, {"newest", newest}}) {
    const bool asked = argc < 3 || std::string_view(argv[2]) == part.name;
    if (asked && !run(part, rounds)) return 1;
  }
}
