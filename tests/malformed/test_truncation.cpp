#include <catch2/catch.hpp>

#include "card_plan.hpp"
#include "card_reading.hpp"
#include "malformed_cards.hpp"

using namespace cachecard;
using namespace cachecard::tests;

TEST_CASE("a card cut at any byte is truncated, for file, pipe and reader alike", "[malformed]") {
  for (const NamedCard& card : cards_to_break()) {
    REQUIRE(verdict_of(card.bytes) == "ok");
    for (std::size_t size = 0; size < card.bytes.size(); ++size) {
      const auto cut = std::span<const std::byte>(card.bytes).first(size);
      INFO(card.name << " cut to " << size << " of " << card.bytes.size());
      REQUIRE(verdict_of(cut) == "truncated " + std::to_string(size));
      const Reading reading = read_everything(cut);
      REQUIRE(reading.open_error);
      REQUIRE(reading.open_error->code == ErrorCode::kTruncated);
      REQUIRE(reading.open_error->offset <= size);
    }
  }
}

TEST_CASE("a large card cut at 200 random places is truncated", "[malformed]") {
  fixtures::CardPlan plan = fixtures::make_plan("large_to_cut", "", 2000, "", "");
  for (std::uint32_t layer = 0; layer < 3; ++layer)
    fixtures::add_layer(plan, layer, DType::kF16, {.head_dim = 64});
  plan.chunk_tokens = 300;
  const auto card = fixtures::build(plan).value();
  fixtures::Random random("cuts of a large card");
  for (int i = 0; i < 200; ++i) {
    const auto cut = std::span<const std::byte>(card).first(random.below(card.size()));
    REQUIRE(verdict_of(cut, false) == "truncated " + std::to_string(cut.size()));
    REQUIRE(read_everything(cut).open_error->code == ErrorCode::kTruncated);
  }
}

TEST_CASE("read_facts refuses every cut card", "[malformed]") {
  const auto card = smallest_card();
  for (std::size_t size = 0; size < card.size(); ++size) {
    const MemorySource source(std::span<const std::byte>(card).first(size));
    const auto facts = read_facts(source);
    REQUIRE_FALSE(facts);
    REQUIRE(facts.error().code == ErrorCode::kTruncated);
  }
}

TEST_CASE("bytes after the trailer are refused, however many", "[malformed]") {
  const auto card = smallest_card();
  for (std::size_t more : {1u, 63u, 64u, 65u, 128u, 1000u}) {
    auto longer = card;
    longer.resize(card.size() + more);
    CHECK(verdict_of(longer) == "corrupt " + std::to_string(card.size()));
    CHECK(read_everything(longer).open_error);
  }
  auto twice = card;
  twice.insert(twice.end(), card.begin(), card.end());
  CHECK(verdict_of(twice) == "corrupt " + std::to_string(card.size()));
  CHECK(read_everything(twice).open_error);
}
