#include <catch2/catch.hpp>
#include <cmath>

#include "cachecard/edit.hpp"
#include "codec/references.hpp"
#include "codec/scale_code.hpp"
#include "plan_source.hpp"
#include "planes_cases.hpp"

/// The codec `entropy` from a source to a card and back.
namespace cachecard {
namespace {

using fixtures::Random;
using tests::FormulaSource;

/// Smooth noise that comes again every 50 tokens, larger in some channels and heads.
FormulaSource noisy(std::uint64_t tokens = 400, DType dtype = DType::kF16) {
  FormulaSource source("entropy", {.tokens = tokens, .heads = 2, .head_dim = 64, .dtype = dtype});
  Random random("entropy noise");
  source.fill([&](std::uint64_t, std::uint32_t head, std::uint32_t channel) {
    const double uniform = static_cast<double>(random.below(1u << 20)) / (1u << 19) - 1.0;
    return uniform * (1.0 + 0.1 * channel) * (head + 1);
  });
  return source;
}

EntropyOptions at(double bits) {
  EntropyOptions options;
  options.bits = bits;
  return options;
}

struct Written {
  std::vector<std::byte> bytes;
  WriteReport report;
};

Result<Written> write(const CacheSource& source, const EntropyOptions& entropy, std::uint64_t chunk_tokens = 2048,
                      ParallelFor parallel = {}) {
  MemorySink sink;
  CardOptions options;
  options.entropy = entropy;
  options.chunk_tokens = chunk_tokens;
  options.parallel = parallel;
  auto report = write_card(source, sink, options);
  if (!report) return report.error();
  return Written{sink.bytes(), *report};
}

std::vector<std::byte> rows_of(const CardReader& card, std::size_t stream, std::uint64_t first, std::uint64_t count) {
  const StreamRecord& record = card.header().streams[stream];
  std::vector<std::byte> rows(count * row_bytes(record, static_cast<DType>(record.dtype)));
  std::vector<std::byte> scratch(card.scratch_bytes(stream));
  REQUIRE(card.read_rows(stream, first, count, rows, scratch));
  return rows;
}

double mean_square(const CacheSource& source, const CardReader& card, std::size_t stream, std::uint64_t first,
                   std::uint64_t count) {
  std::vector<std::byte> rows = rows_of(card, stream, first, count);
  std::vector<std::byte> own(rows.size());
  REQUIRE(source.read_rows(stream, first, count, own));
  double sum = 0.0;
  for (std::size_t i = 0; i < rows.size(); i += 2) {
    std::uint16_t a = 0;
    std::uint16_t b = 0;
    std::memcpy(&a, rows.data() + i, 2);
    std::memcpy(&b, own.data() + i, 2);
    const double d = double{kernel::f32_from_f16(a)} - double{kernel::f32_from_f16(b)};
    sum += d * d;
  }
  return sum / static_cast<double>(rows.size() / 2);
}

}  // namespace

TEST_CASE("entropy meets its budget and keeps each value within its step", "[unit]") {
  const FormulaSource source = noisy();
  double before = 1e9;
  for (const double bits : {2.0, 3.0, 5.0, 7.0}) {
    const auto written = write(source, at(bits));
    REQUIRE(written);
    INFO(bits << " bits");
    CHECK(written->report.raw_chunks.empty());
    const MemorySource memory(written->bytes);
    const auto card = CardReader::open(memory);
    REQUIRE(card);
    const double got = 8.0 * static_cast<double>(written->bytes.size()) / (2.0 * 400 * 128);
    CHECK(got == Approx(bits).epsilon(0.05));
    double error = 0.0;
    double bound = 0.0;
    for (std::size_t s = 0; s < 2; ++s) {
      error += mean_square(source, *card, s, 0, 400) * 400 * 128;
      bound += *card->squared_error_bound(card->chunks(s)[0]);
    }
    CHECK(error < bound);
    CHECK(error < before / 1.5);
    before = error;
  }
}

TEST_CASE("entropy meets its budget where chunks differ in length and in what they hold", "[unit]") {
  constexpr std::uint64_t kTokens = 3200;
  FormulaSource source("entropy", {.tokens = kTokens, .heads = 2, .head_dim = 64, .dtype = DType::kF16});
  Random random("entropy chunks");
  source.fill([&](std::uint64_t token, std::uint32_t, std::uint32_t) {
    const double uniform = static_cast<double>(random.below(1u << 20)) / (1u << 19) - 1.0;
    return token < 2048 ? uniform : 4.0 * uniform;
  });
  for (const double bits : {2.0, 3.0}) {
    const auto written = write(source, at(bits));
    REQUIRE(written);
    CHECK(8.0 * static_cast<double>(written->bytes.size()) / (2.0 * kTokens * 128) == Approx(bits).epsilon(0.02));
  }
}

TEST_CASE("entropy writes the same card with any number of threads", "[unit]") {
  const FormulaSource source = noisy(200);
  tests::TestThreads threads;
  const auto once = write(source, at(4.0), 64);
  const auto again = write(source, at(4.0), 64, threads.parallel());
  REQUIRE(once);
  REQUIRE(again);
  CHECK(once->bytes == again->bytes);
}

TEST_CASE("entropy: offsets and gains make steps finer where they say so", "[unit]") {
  const FormulaSource source = noisy();
  EntropyOptions options = at(4.0);
  options.token_offsets.assign(4 * 400, 0);
  for (std::size_t use = 0; use < 4; ++use) {
    std::fill_n(options.token_offsets.begin() + static_cast<std::ptrdiff_t>(use * 400 + 200), 200, std::int8_t{4});
  }
  const auto written = write(source, options);
  REQUIRE(written);
  const MemorySource memory(written->bytes);
  const auto card = CardReader::open(memory);
  REQUIRE(card);
  // Two octaves of step: 16 times the square.
  const double coarse = mean_square(source, *card, 0, 10, 190);
  const double fine = mean_square(source, *card, 0, 200, 200);
  CHECK(coarse / fine == Approx(16.0).epsilon(0.25));

  EntropyOptions gained = at(4.0);
  gained.gains = {1.0f, 1.0f, 4.0f, 4.0f};  // of the values
  const auto other = write(source, gained);
  REQUIRE(other);
  const MemorySource other_memory(other->bytes);
  const auto other_card = CardReader::open(other_memory);
  REQUIRE(other_card);
  CHECK(mean_square(source, *other_card, 1, 10, 390) > 8.0 * mean_square(source, *other_card, 0, 10, 390));
}

TEST_CASE("entropy refuses options that cannot be", "[unit]") {
  const FormulaSource source = noisy(40);
  const auto code = [&](const EntropyOptions& options) {
    const auto written = write(source, options);
    return written ? ErrorCode::kOk : written.error().code;
  };
  CHECK(code(at(0.0)) == ErrorCode::kInvalidArgument);
  CHECK(code(at(4097.0)) == ErrorCode::kInvalidArgument);
  CHECK(code(at(std::nan(""))) == ErrorCode::kInvalidArgument);
  CHECK(code(at(0.5)) == ErrorCode::kInvalidArgument);  // lanes and states alone take more
  EntropyOptions stepped = at(2.0);
  for (const double step : {-1.0, 0x1p-8, 0x1p9, std::nan("")}) {
    stepped.step = step;
    CHECK(code(stepped) == ErrorCode::kInvalidArgument);
  }
  stepped.step = 0.5;
  CHECK(code(stepped) == ErrorCode::kOk);
  EntropyOptions options = at(8.0);
  for (const std::vector<float>& gains : {std::vector<float>{1.0f}, {1.0f, 0.0f, 1.0f, 1.0f}, {1.0f, NAN, 1.0f, 1.0f}}) {
    options.gains = gains;
    CHECK(code(options) == ErrorCode::kInvalidArgument);
  }
  options.gains.clear();
  for (const std::vector<std::int8_t>& offsets : {std::vector<std::int8_t>{1}, std::vector<std::int8_t>(160, 9)}) {
    options.token_offsets = offsets;
    CHECK(code(options) == ErrorCode::kInvalidArgument);
  }
}

TEST_CASE("entropy names the value that is not finite, or keeps its chunk raw", "[unit]") {
  FormulaSource source("entropy nan", {.tokens = 96, .heads = 2, .head_dim = 64, .dtype = DType::kF16});
  source.fill([](std::uint64_t t, std::uint32_t head, std::uint32_t c) {
    return t == 70 && head == 1 && c == 5 ? std::nan("") : std::sin(static_cast<double>(t * 64 + c));
  });
  const auto refused = write(source, at(8.0), 32);
  REQUIRE(!refused);
  CHECK(refused.error().code == ErrorCode::kNonFinite);
  CHECK(refused.error().detail.find("head 1, token 70") != std::string::npos);
  EntropyOptions keeping = at(8.0);
  keeping.keep_nonfinite = true;
  const auto kept = write(source, keeping, 32);
  REQUIRE(kept);
  REQUIRE(kept->report.raw_chunks.size() == 2);
  CHECK(kept->report.raw_chunks[0].first_token == 64);
  CHECK(kept->report.raw_chunks[0].reason == RawReason::kNonFinite);
}

TEST_CASE("trim keeps the bits of entropy's tokens", "[unit]") {
  const FormulaSource source = noisy(300);
  const auto written = write(source, at(3.0), 128);
  REQUIRE(written);
  const MemorySource memory(written->bytes);
  const auto card = CardReader::open(memory);
  REQUIRE(card);
  const auto cut = [&](std::uint64_t first, std::uint64_t end) {
    MemorySink sink;
    TrimOptions options;
    options.first_token = first;
    options.end_token = end;
    const auto trimmed = trim(*card, sink, options);
    if (!trimmed) {
      CHECK(trimmed.error().code == ErrorCode::kNotRestorable);
      return false;
    }
    const MemorySource kept_memory(sink.bytes());
    const auto kept = CardReader::open(kept_memory);
    REQUIRE(kept);
    for (std::size_t s = 0; s < 2; ++s) {
      CHECK(rows_of(*kept, s, 0, end - first) == rows_of(*card, s, first, end - first));
    }
    MemorySource stream_memory(sink.bytes());
    SourceStream stream(stream_memory);
    VerifyOptions whole;
    whole.decode = true;
    CHECK(verify(stream, whole));
    return true;
  };
  CHECK(cut(0, 300));
  CHECK(cut(0, 299));
  CHECK(cut(0, 100));
  CHECK(cut(0, 1));
  CHECK(cut(128, 256));
  CHECK(cut(128, 200));
  CHECK_FALSE(cut(1, 300));
  CHECK_FALSE(cut(130, 200));
}

TEST_CASE("references lead to the latest longest equal suffix", "[unit]") {
  const std::vector<std::int32_t> ids{7, 1, 2, 3, 9, 1, 2, 3, 2, 3, 5, 7};
  std::vector<std::uint16_t> found(ids.size());
  suffix_references({}, ids, found);
  const std::uint16_t second = 1u << 12;
  CHECK(found == std::vector<std::uint16_t>{0, 0, 0, 0, 0, 4, 4 | second, 4 | second, 2, 2 | second, 0, 11});
  // What stands before the chunk is compared, not referred to.
  const std::vector<std::int32_t> before{4, 5};
  const std::vector<std::int32_t> chunk{6, 5, 6};
  found.resize(3);
  suffix_references(before, chunk, found);
  CHECK(found == std::vector<std::uint16_t>{0, 0, 2 | second});
}

TEST_CASE("vector scales come back from their code, and only whole", "[unit]") {
  Random random("vector scales");
  std::vector<std::vector<std::int8_t>> units(3);
  std::vector<std::int8_t> all;
  for (auto& unit : units) {
    for (int t = 0; t < 40; ++t) unit.push_back(static_cast<std::int8_t>(static_cast<int>(random.below(16)) - 8));
    all.insert(all.end(), unit.begin(), unit.end());
  }
  auto bytes = encode_scales(units);
  std::vector<std::int8_t> found;
  CHECK(decode_scales(bytes, 3, 40, found));
  CHECK(found == all);
  CHECK_FALSE(decode_scales(bytes, 3, 41, found));
  CHECK_FALSE(decode_scales(bytes, 2, 40, found));
  CHECK_FALSE(decode_scales(std::span(bytes).first(bytes.size() - 1), 3, 40, found));
  bytes.push_back(std::byte{0});
  CHECK_FALSE(decode_scales(bytes, 3, 40, found));
  CHECK(decode_scales({}, 3, 0, found));
}

}  // namespace cachecard
