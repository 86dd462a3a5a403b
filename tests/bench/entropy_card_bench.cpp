// Times a whole card of `entropy` at 2 bits a value, from a made-up cache in memory to bytes in memory: means, steps, lanes,
// references, RoPE. With one thread by the time of its own, with two by the clock; the memory that it takes beside the cache.
//   entropy_card_bench [ROUNDS]

#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <thread>
#include <vector>

#include "cachecard/io.hpp"
#include "cachecard/writer.hpp"
#include "kernel/floats.hpp"

using namespace cachecard;

namespace {

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

/// Six layers of three heads of 64 in f16, 4,000 tokens; keys with RoPE.
class MadeUpCache final : public CacheSource {
 public:
  static constexpr std::size_t kHeads = 3, kWidth = 64, kElements = kHeads * kWidth, kAllTokens = 4000;

  MadeUpCache() {
    header_.layer_count = 6;
    header_.token_count = kAllTokens;
    header_.segments.resize(1);
    header_.segments[0].token_count = kAllTokens;
    Random random;
    for (std::uint32_t i = 0; i < kAllTokens; ++i) {
      token_ids_.push_back(static_cast<std::int32_t>(random.below(1 + random.below(400))));
      positions_.push_back(static_cast<std::int32_t>(i));
    }
    table_.record.pairing = static_cast<std::uint8_t>(RopePairing::kInterleaved);
    table_.record.rotated_width = kWidth;
    for (std::size_t p = 0; p < kWidth / 2; ++p) {
      table_.inverse_frequencies.push_back(std::pow(10000.0, -static_cast<double>(p) / 32.0));
    }
    for (std::uint32_t layer = 0; layer < 6; ++layer) {
      for (const StreamKind kind : {StreamKind::kKey, StreamKind::kValue}) add_stream(random, layer, kind);
    }
  }
  const CardHeader& header() const override { return header_; }
  std::span<const std::int32_t> token_ids() const override { return token_ids_; }
  std::span<const std::int32_t> positions() const override { return positions_; }
  const RopeTable* rope_table() const override { return &table_; }
  Status read_rows(std::size_t stream, std::uint64_t first, std::uint64_t count, std::span<std::byte> out) const override {
    std::memcpy(out.data(), rows_[stream].data() + first * kElements, count * kElements * 2);
    return {};
  }
  double value_count() const { return static_cast<double>(rows_.size() * kAllTokens * kElements); }

 private:
  void add_stream(Random& random, std::uint32_t layer, StreamKind kind) {
    StreamRecord stream;
    stream.layer = layer;
    stream.stream = static_cast<std::uint8_t>(kind);
    stream.dtype = static_cast<std::uint8_t>(DType::kF16);
    stream.rope_state = static_cast<std::uint8_t>(kind == StreamKind::kKey ? RopeState::kPostRope : RopeState::kNone);
    stream.rope_pairing = static_cast<std::uint8_t>(kind == StreamKind::kKey ? RopePairing::kInterleaved : RopePairing::kNone);
    stream.kv_head_count = kHeads;
    stream.head_dim = kWidth;
    stream.token_count = kAllTokens;
    header_.streams.push_back(stream);
    std::vector<std::uint16_t>& rows = rows_.emplace_back(kAllTokens * kElements);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      float v = 0.0f;
      for (int k = 0; k < 4; ++k) v += static_cast<float>(random.below(2001)) / 1000.0f - 1.0f;
      rows[i] = kernel::f16_from_f32(v * (0.2f + static_cast<float>(i % 7)));
    }
  }

  CardHeader header_;
  RopeTable table_;
  std::vector<std::int32_t> token_ids_;
  std::vector<std::int32_t> positions_;
  std::vector<std::vector<std::uint16_t>> rows_;
};

class Counter final : public ByteSink {
 public:
  Status write(std::span<const std::byte> bytes) override {
    size += bytes.size();
    return {};
  }
  Status commit() override { return {}; }
  std::uint64_t size = 0;
};

ParallelFor threads(std::size_t width) {
  ParallelFor parallel;
  if (width < 2) return parallel;
  parallel.width = width;
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

double thread_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

double clock_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

long peak_kib() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss;
}

}  // namespace

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 20;
  const MadeUpCache cache;
  const long before = peak_kib();
  for (const std::size_t width : {1u, 2u}) {
    CardOptions options;
    options.entropy.emplace();
    options.parallel = threads(width);
    double own = 1e9;
    double clock = 1e9;
    std::uint64_t size = 0;
    for (int i = 0; i < rounds; ++i) {
      Counter sink;
      const double own_start = thread_seconds();
      const double clock_start = clock_seconds();
      if (const auto report = write_card(cache, sink, options); !report) {
        std::fprintf(stderr, "entropy_card_bench: %s: %s\n", report.error().field.c_str(), report.error().detail.c_str());
        return 1;
      }
      own = std::min(own, thread_seconds() - own_start);
      clock = std::min(clock, clock_seconds() - clock_start);
      size = sink.size;
    }
    const double values = cache.value_count();
    std::printf("whole card, %zu threads  %5.3f bits  %5.3f G values/s by the clock", width, 8.0 * static_cast<double>(size) / values,
                values / clock * 1e-9);
    if (width == 1) std::printf(", %5.3f by the thread's time", values / own * 1e-9);
    std::printf(", %.1f MB above the cache\n", static_cast<double>(peak_kib() - before) / 1024.0);
  }
}
