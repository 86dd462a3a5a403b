#include <catch2/catch.hpp>
#include <cstring>
#include <limits>

#include "card_reading.hpp"
#include "malformed_cards.hpp"

using namespace cachecard;
using namespace cachecard::tests;
using fixtures::CardSurgeon;

namespace {

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

TEST_CASE("every reserved field of every record must be zero", "[malformed]") {
  const auto cards = cards_to_break();
  for_each_record([&]<class Record>() {
    for (const NamedCard& card : cards) {
      const CardSurgeon whole(card.bytes);
      const auto places = places_of<Record>(whole);
      if (places.empty()) continue;
      for_each_field<Record>([&](const auto& field, std::size_t) {
        if (field.rule != Rule::kReservedZero) return;
        Record record = load_at<Record>(whole, places.back());
        auto& member = record.*(field.member);
        std::memset(&member, 0x01, sizeof(member));
        CardSurgeon patched(card.bytes);
        store_at(patched, places.back(), record);
        INFO(card.name << " " << Layout<Record>::name << "." << field.name);
        CHECK(verdict_of(patched.card()).starts_with("reserved_not_zero"));
      });
    }
  });
}
