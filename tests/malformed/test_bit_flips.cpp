#include <catch2/catch.hpp>

#include "card_reading.hpp"
#include "malformed_cards.hpp"

using namespace cachecard;
using namespace cachecard::tests;

TEST_CASE("verify finds every flipped bit, the same for file and pipe", "[malformed]") {
  auto card = smallest_card();
  REQUIRE(verdict_of(card) == "ok");
  const Reading whole = read_everything(card);
  REQUIRE(whole.ok());
  std::size_t unseen = 0;
  for (std::size_t bit = 0; bit < card.size() * 8; ++bit) {
    INFO("bit " << bit % 8 << " of byte " << bit / 8);
    const auto mask = static_cast<std::byte>(1u << bit % 8);
    card[bit / 8] ^= mask;
    const std::string verdict = verdict_of(card);
    REQUIRE(verdict != "ok");
    REQUIRE(verdict.find('|') == std::string::npos);
    REQUIRE(verdict.find("internal") == std::string::npos);
    const Reading reading = read_everything(card);
    // A reader does not see padding, nor frame headers that the directory repeats; values it vouches for.
    if (reading.ok()) {
      ++unseen;
      REQUIRE(reading.values_digest == whole.values_digest);
    }
    card[bit / 8] ^= mask;
  }
  CHECK(unseen > 0);
  REQUIRE(verdict_of(card) == "ok");
}

TEST_CASE("a flipped byte anywhere in a card with every section is found", "[malformed]") {
  for (NamedCard& card : cards_to_break()) {
    for (std::size_t at = 0; at < card.bytes.size(); ++at) {
      INFO(card.name << " byte " << at);
      card.bytes[at] ^= std::byte{0xFF};
      const std::string verdict = verdict_of(card.bytes, false);
      REQUIRE(verdict != "ok");
      REQUIRE(verdict.find('|') == std::string::npos);
      read_everything(card.bytes);
      card.bytes[at] ^= std::byte{0xFF};
    }
  }
}
