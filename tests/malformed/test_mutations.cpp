#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cstring>
#include <limits>

#include "card_reading.hpp"
#include "malformed_cards.hpp"

using namespace cachecard;
using namespace cachecard::tests;
using fixtures::CardSurgeon;

namespace {

/// Of all rows in FORMAT.md with the rule reserved_zero, added up there: 273 bytes.
constexpr std::size_t kReservedBits = 8 * 273;

template <class Member>
std::vector<Member> edge_values(Member old) {
  if constexpr (std::is_integral_v<Member>) {
    constexpr Member kMax = std::numeric_limits<Member>::max();
    constexpr Member kMin = std::numeric_limits<Member>::min();
    return {Member{0},
            Member{1},
            Member{2},
            static_cast<Member>(old - 1),
            static_cast<Member>(old + 1),
            static_cast<Member>(old * 2),
            static_cast<Member>(old + 64),
            kMax,
            static_cast<Member>(kMax - 1),
            static_cast<Member>(kMax - 63),
            kMin,
            static_cast<Member>(kMax / 2),
            static_cast<Member>(kMax / 2 + 1)};
  } else if constexpr (std::is_floating_point_v<Member>) {
    return {Member{0}, -Member{1}, std::numeric_limits<Member>::infinity(),
            std::numeric_limits<Member>::quiet_NaN()};
  } else {
    Member first = old;
    Member last = old;
    first.front() ^= 1;
    last.back() ^= 0x80;
    return {first, last};
  }
}

/// An error that a reader may give for a card, or a card that reads well: nothing between.
void check_outcome(std::span<const std::byte> card) {
  const std::string verdict = verdict_of(card);
  REQUIRE(verdict.find('|') == std::string::npos);
  REQUIRE(verdict.find("internal") == std::string::npos);
  REQUIRE(verdict.find("io ") == std::string::npos);
  REQUIRE(verdict.find("invalid_argument") == std::string::npos);
  const Reading reading = read_everything(card);
  if (verdict == "ok") {
    INFO((reading.open_error ? *reading.open_error : reading.read_error.value_or(Error{})).message());
    REQUIRE(reading.ok());
  }
  for (const auto& error : {reading.open_error, reading.read_error}) {
    if (error) REQUIRE(error->code != ErrorCode::kInternal);
    if (error) REQUIRE(error->code < ErrorCode::kInvalidArgument);
  }
}

template <class Record>
std::size_t mutate_record(const NamedCard& card) {
  const CardSurgeon whole(card.bytes);
  std::size_t mutations = 0;
  for (const Place& place : places_of<Record>(whole)) {
    const Record original = load_at<Record>(whole, place);
    for_each_field<Record>([&](const auto& field, std::size_t) {
      for (const auto& value : edge_values(original.*(field.member))) {
        Record record = original;
        record.*(field.member) = value;
        CardSurgeon patched(card.bytes);
        store_at(patched, place, record);
        INFO(card.name << " " << Layout<Record>::name << "." << field.name << " at " << place.frame << " "
                       << place.at);
        check_outcome(patched.card());
        ++mutations;
      }
    });
  }
  return mutations;
}

}  // namespace

TEST_CASE("every field of every record, at every edge, gives an error or a readable card", "[malformed]") {
  const auto cards = cards_to_break();
  for_each_record([&]<class Record>() {
    std::size_t mutations = 0;
    for (const NamedCard& card : cards) mutations += mutate_record<Record>(card);
    INFO(Layout<Record>::name);
    CHECK(mutations > 0);  // a record that no card here has would go unseen
  });
}

TEST_CASE("every reserved bit of every record, set alone, is refused", "[malformed]") {
  const auto cards = cards_to_break();
  std::size_t bits = 0;
  for_each_record([&]<class Record>() {
    const auto has = [](const NamedCard& card) { return !places_of<Record>(CardSurgeon(card.bytes)).empty(); };
    const NamedCard& card = *std::find_if(cards.begin(), cards.end(), has);
    const CardSurgeon whole(card.bytes);
    const Place place = places_of<Record>(whole).back();
    for_each_field<Record>([&](const auto& field, std::size_t) {
      if (field.rule != Rule::kReservedZero) return;
      Record record = load_at<Record>(whole, place);
      auto& member = record.*(field.member);
      for (std::size_t bit = 0; bit < 8 * sizeof(member); ++bit, ++bits) {
        std::array<unsigned char, sizeof(member)> one{};
        one[bit / 8] = static_cast<unsigned char>(1u << bit % 8);
        std::memcpy(&member, one.data(), sizeof(member));
        CardSurgeon patched(card.bytes);
        store_at(patched, place, record);
        INFO(card.name << " " << Layout<Record>::name << "." << field.name << " bit " << bit);
        REQUIRE(verdict_of(patched.card()).starts_with("reserved_not_zero"));
      }
    });
  });
  CHECK(bits == kReservedBits);
}

TEST_CASE("every undefined bit of flags and required features, set alone, is refused", "[malformed]") {
  const auto card = smallest_card();
  for (unsigned bit = 3; bit < 32; ++bit) {
    CardSurgeon patched(card);
    HeaderRecord record = patched.header_record();
    record.flags |= 1u << bit;
    store(record, patched.header);
    INFO("header.flags bit " << bit);
    REQUIRE(verdict_of(patched.card()) == "reserved_not_zero 68");
  }
  for (unsigned bit = 2; bit < 16; ++bit) {
    CardSurgeon patched(card);
    FrameHeader& frame = patched.frame(SectionType::kText).header;
    frame.flags = static_cast<std::uint16_t>(frame.flags | 1u << bit);
    const std::string expected = "reserved_not_zero " + std::to_string(frame.offset + 2);
    INFO("frame_header.flags bit " << bit);
    REQUIRE(verdict_of(patched.card()) == expected);
  }
  for (unsigned bit = 4; bit < 64; ++bit) {
    CardSurgeon patched(card);
    patched.prologue.required_features |= std::uint64_t{1} << bit;
    INFO("prologue.required_features bit " << bit);
    REQUIRE(verdict_of(patched.card()) == "unsupported_feature 16");
  }
}
