#include <catch2/catch.hpp>

#include <limits>

#include "cachecard/edit.hpp"
#include "planes_cases.hpp"

/// Values near the largest of their type decode to finite ones, whatever half a step and RoPE add to them.
namespace cachecard::tests {
namespace {

double largest_of(DType dtype) {
  return dtype == DType::kF16 ? 65504.0 : dtype == DType::kBf16 ? 0x1.FEp127 : double{std::numeric_limits<float>::max()};
}

using Value = std::function<double(fixtures::Random&, double largest, std::uint64_t token, std::uint32_t channel)>;

struct Kind {
  std::string name;
  Value value;
};

const std::vector<Kind>& kinds() {
  static const std::vector<Kind> all{
      {"all of either sign", [](auto&, double most, auto t, auto c) { return (t * 7 + c * c) % 3 == 0 ? -most : most; }},
      {"spread up to it", [](auto& r, double most, auto, auto) { return std::clamp(0.45 * most * normal(r), -most, most); }},
      {"one in ten", [](auto& r, double most, auto, auto) { return r.below(10) > 0 ? 0.0 : r.below(2) > 0 ? 0.8 * most : -0.8 * most; }},
      {"one token", [](auto& r, double most, auto t, auto) { return t == 40 ? (r.below(2) == 0 ? -most : most) : normal(r); }},
      {"one value", [](auto& r, double most, auto t, auto c) { return t == 40 && c == 9 ? most : normal(r); }},
      {"the first tokens", [](auto& r, double most, auto t, auto) { return t < 4 ? (r.below(2) == 0 ? -most : most) : normal(r); }},
      {"the first tokens far above", [](auto& r, double most, auto t, auto) { return t < 4 ? std::pow(most, 0.75) : normal(r); }},
      {"one channel", [](auto& r, double most, auto, auto c) { return c == 9 ? most * (1.0 - 0.001 * std::abs(normal(r))) : normal(r); }},
  };
  return all;
}

FormulaSource source_of(const Kind& kind, DType dtype, RopePairing pairing) {
  fixtures::Random random("largest values");
  FormulaSource source(kind.name, {96, 2, 64, dtype});
  source.fill([&](auto t, auto, auto c) { return kind.value(random, largest_of(dtype), t, c); });
  if (pairing != RopePairing::kNone) source.rotate(pairing);
  return source;
}

void check_finite(const CardReader& card) {
  for (std::size_t s = 0; s < 2; ++s) {
    INFO("stream " << s);
    const auto values = decoded(card, s);
    CHECK(!values.empty());
    CHECK(std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); }));
  }
}

template <class Check>
void each_source(Check&& check) {
  for (const DType dtype : {DType::kF16, DType::kBf16, DType::kF32}) {
    for (const RopePairing pairing : {RopePairing::kNone, RopePairing::kInterleaved, RopePairing::kHalfSplit}) {
      for (const Kind& kind : kinds()) {
        INFO(kind.name << ", " << dtype_info(dtype)->name << ", pairing " << static_cast<int>(pairing));
        check(source_of(kind, dtype, pairing));
      }
    }
  }
}

/// Writes a card, which is whole and finite.
std::vector<std::byte> written(const CacheSource& source, const CardOptions& options) {
  MemorySink sink;
  if (const auto report = write_card(source, sink, options); !report) FAIL(report.error().message());
  const MemorySource bytes(sink.bytes());
  SourceStream whole(bytes);
  if (const auto verified = verify(whole); !verified) FAIL(verified.error().message());
  check_finite(CardReader::open(bytes).value());
  return {sink.bytes().begin(), sink.bytes().end()};
}

bool is_coded(std::span<const std::byte> card, std::size_t stream, std::size_t chunk = 0) {
  const MemorySource bytes(card);
  const auto reader = CardReader::open(bytes);
  return reader->frames()[reader->chunks(stream)[chunk]].codec != static_cast<std::uint8_t>(Codec::kRaw);
}

}  // namespace

TEST_CASE("the largest values decode to finite ones from planes, however many are left", "[unit]") {
  each_source([](const FormulaSource& source) {
    for (const std::uint8_t bits : std::initializer_list<std::uint8_t>{1, 3, 6, 8}) {
      INFO(int{bits} << " bits");
      const auto card = written(source, planes_of(bits, bits, 0));
      const MemorySource bytes(card);
      const auto reader = CardReader::open(bytes);
      for (std::uint8_t left = 1; left < bits; ++left) {
        INFO(int{left} << " left");
        MemorySink sink;
        TrimOptions trimmed;
        trimmed.key_bits = trimmed.value_bits = left;
        REQUIRE(trim(*reader, sink, trimmed));
        const MemorySource fewer(sink.bytes());
        check_finite(CardReader::open(fewer).value());
      }
    }
  });
}

TEST_CASE("large values whose planes decode to finite ones are coded, whatever their bound says", "[unit]") {
  fixtures::Random random("large values");
  for (const RopePairing pairing : {RopePairing::kNone, RopePairing::kHalfSplit}) {
    FormulaSource source("large", {96, 2, 64, DType::kF16});
    source.fill([&](auto, auto, auto) { return std::clamp(4000.0 * normal(random), -12000.0, 12000.0); });
    if (pairing != RopePairing::kNone) source.rotate(pairing);
    const auto card = written(source, planes_of(4, 4, 0));
    CHECK(is_coded(card, 0));
    CHECK(is_coded(card, 1));
  }
}

TEST_CASE("the largest values decode to finite ones from entropy, and only their tokens are exact", "[unit]") {
  each_source([](const FormulaSource& source) {
    CardOptions options;
    options.entropy.emplace();
    options.entropy->exact_tokens = 0;
    for (const std::uint64_t fine : {0u, 4u}) {
      options.entropy->fine_tokens = fine;
      for (const double step : {2.0, 0.5, 0x1p-3, 0x1p-6}) {
        INFO(fine << " fine tokens, a step of " << step);
        options.entropy->step = step;
        const auto card = written(source, options);
        if (source.name() != "one token") continue;
        // What taking RoPE off makes infinite has no codes at all.
        CHECK(is_coded(card, 0) == (source.rope_table() == nullptr || source.shape().dtype == DType::kF16));
        CHECK(is_coded(card, 1));
      }
    }
  });
}

TEST_CASE("the largest values decode to finite ones where lanes are shared", "[unit]") {
  for (const RopePairing pairing : {RopePairing::kNone, RopePairing::kHalfSplit}) {
    for (const double step : {1.0, 0.25, 0x1p-3}) {
      INFO("pairing " << static_cast<int>(pairing) << ", a step of " << step);
      const auto source = [&](std::uint64_t tokens) {
        fixtures::Random random("largest values, shared");
        FormulaSource made("shared", {tokens, 2, 64, DType::kF16});
        made.fill([&](auto t, auto, auto) {
          const double value = std::clamp(8000.0 * normal(random), -30000.0, 30000.0);
          return t == 270 ? std::copysign(65504.0, value) : value;
        });
        if (pairing != RopePairing::kNone) made.rotate(pairing);
        return made;
      };
      CardOptions options;
      options.entropy.emplace().step = step;
      const auto card = written(source(256), options);
      const MemorySource bytes(card);
      const auto base = CardReader::open(bytes);
      MemorySink sink;
      ExtendOptions extension;
      extension.card = options_of_base(*base);
      const auto report = extend_card(*base, source(352), sink, extension);
      if (!report) FAIL(report.error().message());
      CHECK(report->shared_lanes);
      const MemorySource next(sink.bytes());
      check_finite(CardReader::open(next).value());
      CHECK(is_coded(sink.bytes(), 0, 1));
      CHECK(is_coded(sink.bytes(), 1, 1));
    }
  }
}

}  // namespace cachecard::tests
