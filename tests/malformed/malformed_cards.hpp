#pragma once

#include <functional>
#include <string>
#include <vector>

#include "card_surgeon.hpp"

namespace cachecard::tests {

/// Small cards to be broken, which together have every record and section type.
struct NamedCard {
  std::string name;
  std::vector<std::byte> bytes;
};
std::vector<NamedCard> cards_to_break();

/// The smallest card with text and padding, for tests that break every bit of it.
std::vector<std::byte> smallest_card();

/// Where a record stands in a card that was taken apart.
struct Place {
  enum class In { kPrologue, kHeader, kFrame, kPayload, kTrailer } in;
  std::size_t frame = 0;  ///< for kFrame and kPayload
  std::uint64_t at = 0;   ///< in the header or the payload
};

/// Places of every record of one type.
template <class Record>
std::vector<Place> places_of(const fixtures::CardSurgeon& card);

template <class Record>
Record load_at(const fixtures::CardSurgeon& card, const Place& place) {
  if constexpr (std::is_same_v<Record, Prologue>) {
    return card.prologue;
  } else if constexpr (std::is_same_v<Record, FrameHeader>) {
    return card.frames[place.frame].header;
  } else if constexpr (std::is_same_v<Record, Trailer>) {
    return card.trailer;
  } else {
    const auto& bytes = place.in == Place::In::kHeader ? card.header : card.frames[place.frame].payload;
    return load<Record>(std::span(bytes).subspan(place.at));
  }
}

/// Sets a record and what depends on its bytes (not on its meaning): payload digests and their names.
template <class Record>
void store_at(fixtures::CardSurgeon& card, const Place& place, const Record& record) {
  if constexpr (std::is_same_v<Record, Prologue>) {
    card.prologue = record;
  } else if constexpr (std::is_same_v<Record, FrameHeader>) {
    card.frames[place.frame].header = record;
  } else if constexpr (std::is_same_v<Record, Trailer>) {
    card.trailer = record;
  } else {
    auto& bytes = place.in == Place::In::kHeader ? card.header : card.frames[place.frame].payload;
    store(record, std::span(bytes).subspan(place.at));
    if (place.in == Place::In::kPayload) card.payload_changed(card.frames[place.frame]);
  }
}

}  // namespace cachecard::tests
