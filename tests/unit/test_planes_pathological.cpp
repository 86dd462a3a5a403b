#include <catch2/catch.hpp>

#include "pathological_cases.hpp"

/// Caches that break codecs: every error stays under half a step, or the chunk is raw; at 8 bits nothing is kept worse
/// than q8_0 would at its size.
namespace cachecard::tests {
namespace {

using namespace pathological;

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
  const double rounding = rounding_of(source.shape().dtype);
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
