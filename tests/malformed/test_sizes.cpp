#include <sys/resource.h>

#include <catch2/catch.hpp>
#include <chrono>
#include <cstring>

#include "card_plan.hpp"
#include "card_reading.hpp"
#include "malformed_cards.hpp"

using namespace cachecard;
using namespace cachecard::tests;
using fixtures::CardPlan;

namespace {

/// Resident memory at its highest so far, in bytes.
std::uint64_t peak_memory() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::uint64_t>(usage.ru_maxrss) * 1024;
}

std::string verdict_under(std::span<const std::byte> card, const Limits& limits) {
  const MemorySource source(card);
  SourceStream stream(source);
  return verdict_of(verify(stream, {.decode = true, .limits = limits, .parallel = {}}));
}

}  // namespace

TEST_CASE("sizes that a card claims allocate nothing before they are checked", "[malformed]") {
  const auto cards = cards_to_break();
  const std::uint64_t before = peak_memory();
  for (const NamedCard& card : cards) {
    const fixtures::CardSurgeon whole(card.bytes);
    for (std::size_t i = 0; i < whole.frames.size(); ++i) {
      for (const auto member :
           {&FrameHeader::stored_size, &FrameHeader::decoded_size, &FrameHeader::token_count}) {
        fixtures::CardSurgeon patched(card.bytes);
        patched.frames[i].header.*member = 1ull << 40;
        const auto bytes = patched.card();
        const bool skipped =
            whole.frames[i].header.section_type == 999 && member == &FrameHeader::token_count;
        CHECK((verdict_of(bytes) == "ok") == skipped);
        read_everything(bytes);
      }
    }
  }
  CHECK(peak_memory() - before < (16u << 20));
}

TEST_CASE("every limit is held, one below what the card needs", "[malformed]") {
  const auto card = cards_to_break().front().bytes;
  const fixtures::CardSurgeon whole(card);
  std::uint64_t largest = 0;
  for (std::size_t i = 0; i + 2 < whole.frames.size(); ++i) {
    largest = std::max(largest, whole.frames[i].header.stored_size);
  }
  struct Case {
    const char* name;
    std::uint64_t Limits::*limit;
    std::uint64_t needed;
  };
  for (const Case& c :
       {Case{"header_bytes", &Limits::header_bytes, whole.header.size()},
        Case{"section_bytes", &Limits::section_bytes, largest},
        Case{"summary_bytes", &Limits::summary_bytes, whole.frames[whole.frames.size() - 2].payload.size()},
        Case{"frame_count", &Limits::frame_count, whole.frames.size()},
        Case{"token_count", &Limits::token_count, 6}, Case{"stream_count", &Limits::stream_count, 3},
        Case{"segment_count", &Limits::segment_count, 2}}) {
    INFO(c.name);
    Limits limits;
    limits.*c.limit = c.needed;
    CHECK(verdict_under(card, limits) == "ok");
    const MemorySource source(card);
    CHECK(CardReader::open(source, limits));
    limits.*c.limit = c.needed - 1;
    CHECK(verdict_under(card, limits).starts_with("limit_exceeded"));
    const auto opened = CardReader::open(source, limits);
    REQUIRE_FALSE(opened);
    CHECK(opened.error().code == ErrorCode::kLimitExceeded);
  }
}

TEST_CASE("a map above its limit is refused", "[malformed]") {
  const auto card = smallest_card();
  Limits limits;
  limits.map_bytes = 5;  // one base, one cap, one row number of two bytes, two tokens: six
  CHECK(verdict_under(card, limits).starts_with("limit_exceeded"));
  limits.map_bytes = 6;
  CHECK(verdict_under(card, limits) == "ok");
}

TEST_CASE("maps of many segments do not add up to more memory than one may take", "[malformed]") {
  CardPlan plan = fixtures::make_plan("many_maps", "", 64, "", "");
  fixtures::add_stream(plan, 0, StreamKind::kKey, DType::kF16, {.head_dim = 2});
  fixtures::cut_segments(plan, std::vector<std::uint64_t>(64, 1));
  BitWidthMap map = uniform_map(plan.header, 1);
  map.rows.assign(65536, 0);  // 64 KiB from 514 bytes of runs
  plan.maps.assign(64, map);
  const auto card = fixtures::build(plan);
  REQUIRE(card);
  Limits limits;
  limits.map_bytes = 1u << 20;
  CHECK_THAT(verdict_under(*card, limits), Catch::Matchers::StartsWith("limit_exceeded"));
}

TEST_CASE("hundreds of thousands of sections take time in proportion", "[malformed]") {
  CardPlan plan = fixtures::make_plan("many_sections", "", 1, "", "");
  fixtures::add_stream(plan, 0, StreamKind::kKey, DType::kQ8_0, {.hadamard_size = 32});
  for (std::uint32_t i = 0; i < 20000; ++i) {
    Parameters parameters;
    parameters.record.hadamard_size = 32;
    parameters.data.resize(4);
    std::memcpy(parameters.data.data(), &i, 4);
    plan.first.push_back({make_frame(SectionType::kParameters, 0), encode_parameters(parameters)});
  }
  const auto card = fixtures::build(plan);
  REQUIRE(card);
  const auto start = std::chrono::steady_clock::now();
  CHECK(verdict_of(*card) == "ok");
  CHECK(read_everything(*card).ok());
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(5));
}
