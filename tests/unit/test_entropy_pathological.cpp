#include <catch2/catch.hpp>

#include "pathological_cases.hpp"

/// Caches that break codecs, in `entropy`: every error stays under half a step, or its token or chunk is exact; with the finest steps
/// nothing is kept worse than q8_0 would at its size.
namespace cachecard::tests {
namespace {

using namespace pathological;

constexpr double kFinest = 0x1p-7;

/// Sums over one stream.
struct Errors {
  double ours = 0.0;
  double q8_0 = 0.0;
  double energy = 0.0;
};

Errors errors_of(const FormulaSource& source, std::size_t stream, std::span<const float> values) {
  const auto given = source.values(stream);
  REQUIRE(values.size() == given.size());
  Errors sums;
  for (std::size_t i = 0; i < given.size(); ++i) {
    sums.ours += (double{values[i]} - given[i]) * (double{values[i]} - given[i]);
    sums.energy += double{given[i]} * given[i];
  }
  const std::size_t row = std::size_t{source.shape().heads} * source.shape().head_dim;
  for (std::size_t at = 0; at < given.size(); at += row) {
    sums.q8_0 += std::max(q8_0_error(given.subspan(at, row)), q8_0_steps(given.subspan(at, row)));
  }
  return sums;
}

void check(const FormulaSource& source, const EntropyOptions& entropy) {
  MemorySink sink;
  CardOptions options;
  options.entropy = entropy;
  const auto report = write_card(source, sink, options);
  if (!report && entropy.step == 0.0 && report.error().code == ErrorCode::kInvalidArgument) return;  // so few bits cannot be had
  if (!report) FAIL(report.error().message());
  const MemorySource bytes(sink.bytes());
  SourceStream whole(bytes);
  if (const auto verified = verify(whole); !verified) FAIL(verified.error().message());
  const auto reader = CardReader::open(bytes);
  REQUIRE(reader);
  const double rounding = rounding_of(source.shape().dtype);
  for (std::size_t s = 0; s < 2; ++s) {
    const Errors sums = errors_of(source, s, decoded(*reader, s));
    const FrameHeader& frame = reader->frames()[reader->chunks(s)[0]];
    const bool raw = frame.codec == static_cast<std::uint8_t>(Codec::kRaw);
    INFO("stream " << s << (raw ? ", raw" : ""));
    if (raw) {
      CHECK(sums.ours == 0.0);
      CHECK(report->raw_chunks.size() >= 1);
      continue;
    }
    const auto count = static_cast<double>(source.values(s).size());
    const double bound = reader->squared_error_bound(reader->chunks(s)[0]).value();
    CHECK(sums.ours <= bound * (1 + 1e-6) + sums.energy * rounding + 1e-9 * count * 0x1p-48);
    const double size = 8.0 * static_cast<double>(frame.stored_size) / count;
    const double allowed = sums.q8_0 * std::exp2(2.0 * std::max(0.0, 8.5 - size)) * 1.1;
    INFO(size << " bits a value");
    if (entropy.step == kFinest) CHECK(sums.ours <= allowed + sums.energy * rounding * 4);
  }
}

}  // namespace

TEST_CASE("pathological caches keep entropy's bounds at every step and budget, or stay raw", "[unit]") {
  for (const Case& c : cases()) {
    fixtures::Random random("pathological " + c.name);
    FormulaSource source(c.name, c.shape);
    source.fill([&](auto t, auto h, auto ch) { return c.value(random, t, h, ch); });
    EntropyOptions entropy;
    entropy.exact_tokens = 0;
    for (const double step : {256.0, 2.0, 0.5, 0x1p-3, 0x1p-5, kFinest}) {
      INFO(c.name << ", a step of " << step);
      entropy.step = step;
      check(source, entropy);
    }
    entropy.step = 0.0;
    for (const double bits : {1.0, 2.0, 4.0, 6.0, 9.0, 16.0, 200.0}) {
      INFO(c.name << ", " << bits << " bits");
      entropy.bits = bits;
      check(source, entropy);
      entropy.fine_tokens = 4 - entropy.fine_tokens;
    }
    entropy.fine_tokens = 0;
  }
}

}  // namespace cachecard::tests
