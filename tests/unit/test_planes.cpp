#include <catch2/catch.hpp>

#include "cachecard/edit.hpp"
#include "codec/planes_codec.hpp"
#include "planes_cases.hpp"

/// The codec `planes` through writer and reader.
namespace cachecard::tests {
namespace {

struct Written {
  std::vector<std::byte> bytes;
  WriteReport report;
};

Written write(const CacheSource& source, const CardOptions& options) {
  MemorySink sink;
  auto report = write_card(source, sink, options);
  if (!report) FAIL(report.error().message());
  return {std::move(sink.bytes()), std::move(*report)};
}

FormulaSource smooth(DType dtype = DType::kF16, std::uint64_t tokens = 100) {
  static fixtures::Random random("planes");
  FormulaSource source("smooth", {tokens, 2, 64, dtype});
  source.fill([](auto, auto, auto c) { return normal(random) + 0.1 * c; });
  source.rotate(RopePairing::kHalfSplit);
  return source;
}

double squared_error(std::span<const float> a, std::span<const float> b) {
  double sum = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
  return sum;
}

double energy(std::span<const float> a) {
  double sum = 0.0;
  for (const float v : a) sum += double{v} * v;
  return sum;
}

}  // namespace

TEST_CASE("planes keep every value within half a step, and exact tokens as they are", "[unit]") {
  const FormulaSource source = smooth();
  double before[2] = {1e30, 1e30};
  for (std::uint8_t bits = 1; bits <= 8; ++bits) {
    const Written card = write(source, planes_of(bits, bits));
    const MemorySource bytes(card.bytes);
    const auto reader = CardReader::open(bytes);
    REQUIRE(reader);
    CHECK(card.report.raw_chunks.empty());
    for (std::size_t s = 0; s < 2; ++s) {
      INFO(int{bits} << " bits, stream " << s);
      const auto values = decoded(*reader, s);
      REQUIRE(values.size() == source.values(s).size());
      CHECK(std::equal(values.begin(), values.begin() + 4 * 128, source.values(s).begin()));
      const double error = squared_error(values, source.values(s));
      const double bound = reader->squared_error_bound(reader->chunks(s)[0]).value();
      CHECK(error <= bound + energy(source.values(s)) * 0x1p-20);
      CHECK(error >= bound / 8);  // a uniform error has a third of it
      CHECK(error < before[s] / 2);
      before[s] = error;
    }
  }
}

TEST_CASE("rows, strided targets and pages give the same planes", "[unit]") {
  const FormulaSource source = smooth();
  const Written card = write(source, planes_of(4, 3));
  const MemorySource bytes(card.bytes);
  const auto reader = CardReader::open(bytes);
  REQUIRE(reader);
  std::vector<std::byte> rows(100 * 256);
  std::vector<std::byte> scratch(reader->scratch_bytes(0));
  REQUIRE(reader->read_rows(0, 0, 100, rows, scratch));
  std::vector<std::uint16_t> strided(100 * 128 * 2, 0xFFFF);
  const DecodeTarget target{strided.data(), DType::kF16, 512, 256, 4, nullptr};
  REQUIRE(reader->decode({0, 7, 90, false}, target));
  for (std::size_t t = 0; t < 90; ++t) {
    for (std::size_t i = 0; i < 128; ++i) {
      std::uint16_t value;
      std::memcpy(&value, rows.data() + (t + 7) * 256 + 2 * i, 2);
      REQUIRE(strided[t * 256 + 2 * i] == value);
      REQUIRE(strided[t * 256 + 2 * i + 1] == 0xFFFF);
    }
  }
  std::vector<std::uint16_t> memory(128 * 128);
  std::vector<void*> pages;
  for (std::size_t p = 8; p-- > 0;) pages.push_back(memory.data() + p * 16 * 128);
  const BlockTable table{16, pages};
  const DecodeTarget paged{nullptr, DType::kF16, 256, 128, 2, &table};
  REQUIRE(reader->decode({0, 0, 100, false}, paged));
  CHECK(std::memcmp(static_cast<std::byte*>(pages[2]) + 3 * 256, rows.data() + 35 * 256, 256) == 0);
}

TEST_CASE("the same input gives the same bytes with any number of tasks at once", "[unit]") {
  const FormulaSource source = smooth(DType::kBf16, 300);
  CardOptions options = planes_of(4, 3);
  options.chunk_tokens = 64;
  const Written one = write(source, options);
  options.parallel.width = 3;
  CHECK(write(source, options).bytes == one.bytes);
}

TEST_CASE("trim --bits leaves what fewer planes would have given", "[unit]") {
  const FormulaSource source = smooth();
  const Written card = write(source, planes_of(5, 4));
  const MemorySource bytes(card.bytes);
  const auto reader = CardReader::open(bytes);
  REQUIRE(reader);
  TrimOptions options;
  options.key_bits = 3;
  options.value_bits = 1;
  MemorySink sink;
  const auto report = trim(*reader, sink, options);
  if (!report) FAIL(report.error().message());
  CHECK(report->lowered_chunks == 2);
  const MemorySource lowered_bytes(sink.bytes());
  const auto lowered = CardReader::open(lowered_bytes);
  REQUIRE(lowered);
  SourceStream stream(lowered_bytes);
  if (const auto verified = verify(stream); !verified) FAIL(verified.error().message());
  // Every plane that stays stands in the old payload, byte for byte.
  const auto payload_of = [](const CardReader& card_reader, std::size_t s) {
    const std::uint32_t frame = card_reader.chunks(s)[0];
    std::vector<std::byte> payload(card_reader.frames()[frame].stored_size);
    REQUIRE(card_reader.read_stored(frame, payload));
    return std::pair(payload, card_reader.frames()[frame].digest_size);
  };
  for (std::size_t s = 0; s < 2; ++s) {
    const auto [old_payload, old_head] = payload_of(*reader, s);
    const auto [new_payload, new_head] = payload_of(*lowered, s);
    CHECK(std::equal(new_payload.begin() + static_cast<std::ptrdiff_t>(new_head), new_payload.end(),
                     old_payload.begin() + static_cast<std::ptrdiff_t>(old_head)));
    const double error = squared_error(decoded(*lowered, s), source.values(s));
    CHECK(error <= lowered->squared_error_bound(lowered->chunks(s)[0]).value() * 1.001);
  }
  // Again with more bits than are left: nothing to drop.
  options.key_bits = 4;
  options.value_bits = 8;
  MemorySink again;
  const auto copied = trim(*lowered, again, options);
  REQUIRE(copied);
  CHECK(copied->lowered_chunks == 0);
  CHECK(copied->copied_chunks == 2);
}

TEST_CASE("a cut of planes decodes to the bits of the whole", "[unit]") {
  FormulaSource source = smooth();
  CardOptions options = planes_of(4, 3);
  options.chunk_tokens = 32;
  for (std::uint8_t t = 0; t < 100; ++t) {
    options.planes->token_bits.push_back({static_cast<std::uint8_t>(t % 9), static_cast<std::uint8_t>((t * 5) % 9)});
  }
  const Written card = write(source, options);
  const MemorySource bytes(card.bytes);
  const auto reader = CardReader::open(bytes);
  REQUIRE(reader);
  TrimOptions cut;
  cut.first_token = 5;
  cut.end_token = 90;
  MemorySink sink;
  if (const auto report = trim(*reader, sink, cut); !report) FAIL(report.error().message());
  const MemorySource cut_bytes(sink.bytes());
  const auto trimmed = CardReader::open(cut_bytes);
  REQUIRE(trimmed);
  SourceStream stream(cut_bytes);
  REQUIRE(verify(stream));
  for (std::size_t s = 0; s < 2; ++s) {
    const auto whole = decoded(*reader, s);
    const auto part = decoded(*trimmed, s);
    REQUIRE(part.size() == 85 * 128);
    CHECK(std::equal(part.begin(), part.end(), whole.begin() + 5 * 128));
  }
}

TEST_CASE("a payload is passed on only with all its planes whole", "[unit]") {
  const FormulaSource source = smooth();
  Written card = write(source, planes_of(4, 3));
  std::uint64_t last = 0;
  {
    const MemorySource bytes(card.bytes);
    const auto reader = CardReader::open(bytes);
    REQUIRE(reader);
    const FrameHeader& frame = reader->frames()[reader->chunks(0)[0]];
    last = frame.offset + 128 + frame.stored_size - 1;
  }
  card.bytes[last] ^= std::byte{1};
  const MemorySource bytes(card.bytes);
  const auto reader = CardReader::open(bytes);
  REQUIRE(reader);
  const std::uint32_t index = reader->chunks(0)[0];
  std::vector<std::byte> stored(reader->frames()[index].stored_size);
  CHECK(reader->read_stored(index, stored).error().code == ErrorCode::kChecksumMismatch);
  CHECK(reader->squared_error_bound(index).error().code == ErrorCode::kChecksumMismatch);
}

TEST_CASE("planes refuse NaN and infinite values by place, or keep the chunk raw", "[unit]") {
  FormulaSource source = smooth(DType::kF32);
  source.value(1, 40 * 128 + 64 + 3) = std::numeric_limits<float>::infinity();
  MemorySink sink;
  CardOptions options = planes_of(4, 3);
  const auto refused = write_card(source, sink, options);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == ErrorCode::kNonFinite);
  CHECK(refused.error().detail.find("layer 0 value, head 1, token 40") != std::string::npos);
  options.planes->keep_nonfinite = true;
  options.chunk_tokens = 32;
  const Written card = write(source, options);
  REQUIRE(card.report.raw_chunks.size() == 1);
  CHECK(card.report.raw_chunks[0].reason == RawReason::kNonFinite);
  CHECK(card.report.raw_chunks[0].first_token == 32);
  const MemorySource bytes(card.bytes);
  const auto reader = CardReader::open(bytes);
  REQUIRE(reader);
  CHECK(std::isinf(decoded(*reader, 1)[40 * 128 + 64 + 3]));
}

TEST_CASE("widths out of range and maps of another length are refused", "[unit]") {
  const FormulaSource source = smooth();
  const auto error = [&](const CardOptions& options) {
    MemorySink sink;
    const auto written = write_card(source, sink, options);
    REQUIRE_FALSE(written);
    CHECK(sink.bytes().empty());
    return written.error().code;
  };
  CHECK(error(planes_of(0, 3)) == ErrorCode::kInvalidArgument);
  CHECK(error(planes_of(4, 9)) == ErrorCode::kInvalidArgument);
  CardOptions options = planes_of(4, 3);
  options.planes->token_bits.assign(99, {4, 3});
  CHECK(error(options) == ErrorCode::kInvalidArgument);
  options.planes->token_bits.assign(100, {4, 9});
  CHECK(error(options) == ErrorCode::kInvalidArgument);
}

}  // namespace cachecard::tests
