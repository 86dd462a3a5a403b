// What is NaN or infinite is found, and what the scales rule out is not there: against a look at every value.
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>

#include "plan_source.hpp"
#include "plan_surgery.hpp"
#include "planes_cases.hpp"

namespace cachecard {
namespace {

using fixtures::Random;
using tests::FormulaSource;

constexpr std::uint64_t kTokens = 300;  // more than two pieces of rows
constexpr std::uint32_t kHeads = 2;
constexpr std::uint32_t kDim = 64;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Written {
  explicit Written(const FormulaSource& source, const CardOptions& options = {}) {
    REQUIRE(write_card(source, sink, options));
    bytes.emplace(sink.bytes());
    card.emplace(CardReader::open(*bytes).value());
  }
  MemorySink sink;
  std::optional<MemorySource> bytes;
  std::optional<CardReader> card;
};

FormulaSource noise(DType dtype, double size) {
  FormulaSource source("finite", {.tokens = kTokens, .heads = kHeads, .head_dim = kDim, .dtype = dtype});
  Random random("finite");
  source.fill([&](auto, auto, auto) { return size * std::clamp(tests::normal(random), -2.9, 2.9); });
  source.rotate(RopePairing::kHalfSplit);
  return source;
}

CardOptions coded(bool entropy) {
  if (!entropy) return tests::planes_of(4, 3);
  CardOptions options;
  options.entropy.emplace().bits = 4.0;
  return options;
}

/// Memory of one stream: [token][head][channel], [head][token][channel], or channels far apart.
struct Strides {
  const char* name;
  std::int64_t token, head, channel;  ///< in values
};
const Strides kLayouts[] = {{"by token", kHeads * kDim, kDim, 1},
                           {"by head", kDim, kTokens* kDim, 1},
                           {"by channel", 1, kTokens* kDim, kTokens}};

Status decode(const CardReader& card, std::size_t stream, DType dtype, const Strides& layout, std::vector<float>* values = nullptr) {
  const auto size = static_cast<std::int64_t>(dtype_info(dtype)->block_bytes);
  std::vector<std::byte> memory(kTokens * kHeads * kDim * static_cast<std::size_t>(size));
  const DecodeTarget target{memory.data(), dtype, layout.token * size, layout.head * size, layout.channel * size, nullptr};
  DecodeRequest request{stream, 0, kTokens};
  request.finite = values == nullptr;  // else all of them, whatever they are
  const Status status = card.decode(request, target);
  for (std::size_t i = 0; values != nullptr && i < memory.size() / 2; ++i) {
    std::uint16_t half;
    std::memcpy(&half, memory.data() + 2 * i, 2);
    values->push_back(kernel::f32_from_f16(half));
  }
  return status;
}

Result<std::uint64_t> counted(const CardReader& card, std::size_t stream) {
  std::vector<std::byte> rows(kTokens * row_bytes(card.header().streams[stream], static_cast<DType>(card.header().streams[stream].dtype)));
  std::vector<std::byte> scratch(card.scratch_bytes(stream));
  return card.read_counted_rows(stream, 0, kTokens, rows, scratch);
}

/// The card with all codes eight times as large, as a writer that does not look at what they decode to may leave them.
std::vector<std::byte> enlarged(std::span<const std::byte> bytes, bool entropy) {
  fixtures::CardSurgeon card(bytes);
  if (entropy) fixtures::change_lanes(card, [](LaneStream& stream) { stream.record.step *= 8.0f; });
  for (auto& frame : card.frames) {
    if (!entropy && frame.header.section_type == static_cast<std::uint16_t>(SectionType::kChunk)) {
      for (std::size_t unit = 0; unit < kHeads; ++unit) {
        std::byte* const at = frame.payload.data() + encoded_size<PlanesRecord>() + 2 * unit;
        std::int16_t top;
        std::memcpy(&top, at, sizeof(top));
        top = static_cast<std::int16_t>(top + 48);
        std::memcpy(at, &top, sizeof(top));
      }
      card.payload_changed(frame);
    }
  }
  card.layout();
  return card.card();
}

}  // namespace

TEST_CASE("one value that is not finite is found, wherever it lies", "[unit]") {
  for (const std::uint64_t token : {0u, 127u, 128u, 299u}) {
    for (const float bad : {kInfinity, -kInfinity, std::numeric_limits<float>::quiet_NaN()}) {
      FormulaSource source = noise(DType::kF16, 1.0);
      source.value(1, (token * kHeads + 1) * kDim + 63) = bad;
      const Written written(source);
      CHECK(counted(*written.card, 0).value() == 0);
      CHECK(counted(*written.card, 1).value() == 1);
      for (const Strides& layout : kLayouts) {
        INFO(layout.name << ", token " << token);
        CHECK(decode(*written.card, 0, DType::kF16, layout));
        for (const DType dtype : {DType::kF16, DType::kF32, DType::kBf16}) {
          const Status status = decode(*written.card, 1, dtype, layout);
          REQUIRE_FALSE(status);
          CHECK(status.error().code == ErrorCode::kNonFinite);
          CHECK(status.error().detail.find("value of layer 0, token " + std::to_string(token) + ":") != std::string::npos);
        }
      }
    }
  }
}

TEST_CASE("values that another type cannot hold are not finite there", "[unit]") {
  for (const bool entropy : {false, true}) {
    const Written written(noise(DType::kF32, 1e6), coded(entropy));
    for (const Strides& layout : kLayouts) {
      CHECK(decode(*written.card, 0, DType::kF32, layout));
      const Status status = decode(*written.card, 0, DType::kF16, layout);
      REQUIRE_FALSE(status);
      CHECK(status.error().detail.find("(the card has f32)") != std::string::npos);
    }
  }
}

TEST_CASE("coded values near the type's end are looked at one by one", "[unit]") {
  std::size_t refused = 0;
  for (const double size : {1.0, 5'000.0, 18'000.0, 22'000.0, 22'590.0}) {
    for (const bool entropy : {false, true}) {
      Written written(noise(DType::kF16, size / 8.0), coded(entropy));
      const auto bytes = enlarged(written.sink.bytes(), entropy);
      const MemorySource source(bytes);
      const auto card = CardReader::open(source);
      REQUIRE(card);
      for (const std::size_t stream : {0u, 1u}) {
        std::vector<float> values;
        REQUIRE(decode(*card, stream, DType::kF16, kLayouts[0], &values));
        std::uint64_t count = 0;
        for (const float value : values) count += std::isfinite(value) ? 0 : 1;
        INFO(size << (entropy ? " entropy " : " planes ") << stream);
        CHECK(static_cast<bool>(decode(*card, stream, DType::kF16, kLayouts[1])) == (count == 0));
        CHECK(counted(*card, stream).value() == count);
        refused += count == 0 ? 0 : 1;
      }
    }
  }
  CHECK(refused > 0);
}

}  // namespace cachecard
