#include <catch2/catch.hpp>
#include <functional>

#include "planes_cases.hpp"

/// Caches that break codecs: every error stays under half a step, or the chunk is raw; at 8 bits nothing is kept worse
/// than q8_0 would at its size.
namespace cachecard::tests {
namespace {

struct Case {
  std::string name;
  FormulaSource::Shape shape;
  std::function<double(fixtures::Random&, std::uint64_t, std::uint32_t, std::uint32_t)> value;
};

std::vector<Case> cases() {
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
      {"denormals of f16", {64, 2, 64, DType::kF16}, [](R& r, auto, auto, auto) { return std::ldexp(normal(r), -18); }},
      {"denormals of f32", plain, [](R& r, auto, auto, auto) { return std::ldexp(normal(r), -135); }},
      {"one value in a million", plain, [](R& r, auto t, auto, auto c) { return t == 9 && c == 9 ? 1e6 : normal(r); }},
  };
  for (const std::uint32_t width : {1u, 48u, 80u, 96u, 112u, 128u, 576u}) {
    all.push_back({"head_dim " + std::to_string(width), {400, 1, width, DType::kF16},
                   [](R& r, auto, auto, auto) { return normal(r); }});
  }
  return all;
}

/// Errors of ggml's q8_0: blocks of 32 along the row, d an f16. source: ggml quantize_row_q8_0
double q8_0_error(std::span<const float> row) {
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

/// Largest error of a head vector's transform domain is not seen from outside; its energy is.
void check(const FormulaSource& source, std::uint8_t bits) {
  MemorySink sink;
  const auto report = write_card(source, sink, planes_of(bits, bits, 0));
  if (!report) FAIL(report.error().message());
  const MemorySource bytes(sink.bytes());
  SourceStream stream(bytes);
  if (const auto verified = verify(stream); !verified) FAIL(verified.error().message());
  const auto reader = CardReader::open(bytes);
  REQUIRE(reader);
  const std::size_t row = std::size_t{source.shape().heads} * source.shape().head_dim;
  const double rounding = source.shape().dtype == DType::kBf16 ? 0x1p-15 : source.shape().dtype == DType::kF16 ? 0x1p-20 : 0x1p-40;
  for (std::size_t s = 0; s < 2; ++s) {
    const auto values = decoded(*reader, s);
    const auto given = source.values(s);
    REQUIRE(values.size() == given.size());
    const FrameHeader& frame = reader->frames()[reader->chunks(s)[0]];
    const bool raw = frame.codec == static_cast<std::uint8_t>(Codec::kRaw);
    double ours = 0.0;
    double theirs = 0.0;
    double energy = 0.0;
    for (std::size_t i = 0; i < given.size(); ++i) {
      ours += (double{values[i]} - given[i]) * (double{values[i]} - given[i]);
      energy += double{given[i]} * given[i];
    }
    for (std::size_t at = 0; at < given.size(); at += row) theirs += q8_0_error(given.subspan(at, row));
    INFO("stream " << s << (raw ? ", raw" : ""));
    if (raw) {
      CHECK(ours == 0.0);
      CHECK(report->raw_chunks.size() >= 1);
      continue;
    }
    const double bound = reader->squared_error_bound(reader->chunks(s)[0]).value();
    CHECK(ours <= bound * (1 + 1e-6) + energy * rounding + 1e-9 * static_cast<double>(given.size()) * 0x1p-48);
    // 8.5 bits against 8 and the scales: what the missing bits are worth goes to ours.
    const double size = 8.0 * static_cast<double>(frame.stored_size) / static_cast<double>(given.size());
    const double allowed = theirs * std::exp2(2.0 * std::max(0.0, 8.5 - size)) * 1.1;
    if (bits == 8) CHECK(ours <= allowed + energy * rounding * 4);
  }
}

}  // namespace

TEST_CASE("pathological caches keep their bounds at every width, or stay raw", "[unit]") {
  for (const Case& c : cases()) {
    fixtures::Random random("pathological " + c.name);
    FormulaSource source(c.name, c.shape);
    source.fill([&](auto t, auto h, auto ch) { return c.value(random, t, h, ch); });
    for (const int bits : {1, 2, 3, 4, 6, 8}) {
      INFO(c.name << ", " << bits << " bits");
      check(source, static_cast<std::uint8_t>(bits));
    }
  }
}

}  // namespace cachecard::tests
