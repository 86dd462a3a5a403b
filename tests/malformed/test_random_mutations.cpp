#include <catch2/catch.hpp>
#include <cstdio>
#include <cstdlib>

#include "card_plan.hpp"
#include "card_reading.hpp"
#include "malformed_cards.hpp"

using namespace cachecard;
using namespace cachecard::tests;
using fixtures::CardSurgeon;
using fixtures::Random;

namespace {

constexpr int kIterations = 20000;

std::byte random_byte(Random& random) {
  constexpr std::array<std::uint8_t, 6> kEdges{0, 1, 0x7F, 0x80, 0xFE, 0xFF};
  const bool edge = random.below(2) == 0;
  return static_cast<std::byte>(edge ? kEdges[random.below(kEdges.size())] : random.below(256));
}

void change_bytes(Random& random, std::span<std::byte> bytes) {
  if (bytes.empty()) return;
  for (std::uint64_t i = 0; i <= random.below(3); ++i)
    bytes[random.below(bytes.size())] = random_byte(random);
}

/// A frame header changed at random: as bytes, so that any field and any pair of them may change.
void change_frame(Random& random, CardSurgeon::Frame& frame) {
  std::array<std::byte, encoded_size<FrameHeader>()> bytes;
  store(frame.header, bytes);
  change_bytes(random, std::span(bytes).first(80));  // all but reserved and check
  frame.header = load<FrameHeader>(bytes);
}

void move_frames(Random& random, CardSurgeon& card) {
  const std::size_t count = card.frames.size();
  const std::size_t a = random.below(count);
  const std::size_t b = random.below(count);
  switch (random.below(3)) {
    case 0:
      std::swap(card.frames[a], card.frames[b]);
      break;
    case 1:
      card.frames.insert(card.frames.begin() + static_cast<std::ptrdiff_t>(a),
                         CardSurgeon::Frame(card.frames[b]));
      break;
    default:
      card.frames.erase(card.frames.begin() + static_cast<std::ptrdiff_t>(a));
  }
  card.layout();
}

void mutate(Random& random, CardSurgeon& card) {
  CardSurgeon::Frame& frame = card.frames[random.below(card.frames.size())];
  switch (random.below(6)) {
    case 0:
      return change_bytes(random, card.header);
    case 1:
      return change_frame(random, frame);
    case 2:
      change_bytes(random, frame.payload);
      return card.payload_changed(frame);
    case 3:
      frame.payload.resize(random.below(frame.payload.size() + 40));
      card.payload_changed(frame);
      return card.layout();
    case 4:
      return move_frames(random, card);
    default:
      card.header.resize(random.below(card.header.size()) + 128);
      return card.layout();
  }
}

}  // namespace

TEST_CASE("20,000 random changes give an error or a readable card", "[malformed]") {
  const char* seed = std::getenv("CACHECARD_SEED");
  const std::string name = seed == nullptr ? "random mutations 1" : seed;
  std::printf("seed \"%s\" (CACHECARD_SEED sets another)\n", name.c_str());
  Random random(name);
  const auto cards = cards_to_break();
  std::size_t accepted = 0;
  for (int i = 0; i < kIterations; ++i) {
    CardSurgeon card(cards[random.below(cards.size())].bytes);
    for (std::uint64_t k = 0; k <= random.below(3); ++k) mutate(random, card);
    auto bytes = card.card();
    if (random.below(8) == 0) change_bytes(random, bytes);
    INFO("seed \"" << name << "\", iteration " << i);
    const std::string verdict = verdict_of(bytes);
    REQUIRE(verdict.find('|') == std::string::npos);
    REQUIRE(verdict.find("internal") == std::string::npos);
    const Reading reading = read_everything(bytes);
    if (verdict == "ok") REQUIRE(reading.ok());
    accepted += verdict == "ok" ? 1 : 0;
  }
  std::printf("%zu of %d changed cards are still cards\n", accepted, kIterations);
  CHECK(accepted > 0);
  CHECK(accepted < kIterations / 2);
}
