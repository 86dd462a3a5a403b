#include <algorithm>
#include <bit>
#include <cstdlib>
#include <memory>

#include "kernel/entropy.hpp"
#include "kernel/entropy_frequencies.hpp"

namespace cachecard::kernel {
namespace {

constexpr std::uint32_t kListBits = 48;  ///< key and index of an escape

/// 256 x log2(number), rounded, in integers: the same on every machine.   Needs: 1 to 4,096
std::uint32_t log2_in_256ths(std::uint32_t number) {
  const auto whole = static_cast<std::uint32_t>(std::bit_width(number) - 1);
  std::uint64_t mantissa = (std::uint64_t{number} << 31) >> whole;  // 1 to 2, 31 bits behind the point
  std::uint32_t bits = whole;
  for (int i = 0; i < 9; ++i) {
    mantissa = mantissa * mantissa >> 31;
    const auto one = static_cast<std::uint32_t>(mantissa >> 32);
    bits = bits << 1 | one;
    mantissa >>= one;
  }
  return (bits + 1) >> 1;
}

}  // namespace

void fill_tables(std::span<const TableFrequencies, kTableCount> frequencies, EntropyTables& tables) {
  for (std::uint32_t t = 0; t < kTableCount; ++t) {
    const TableFrequencies& of = frequencies[t];
    const auto frequency = [&](std::int32_t symbol) {
      return of[static_cast<std::size_t>(symbol == kEscape ? kEscape : std::abs(symbol))];
    };
    const std::uint32_t escape_cost = 256 * (kTableBits + kListBits) - log2_in_256ths(frequency(kEscape));
    std::uint32_t first = 0;
    for (std::int32_t s = -kLargestSymbol; s <= kEscape; ++s) {
      const std::uint32_t f = frequency(s);
      const auto place = static_cast<std::size_t>(s + kLargestSymbol);
      tables.symbols[t][place] = {static_cast<std::uint16_t>(f), static_cast<std::uint16_t>(first)};
      const bool escapes = f == 0 || s == kEscape;
      const std::uint32_t cost = escapes ? escape_cost : 256 * kTableBits - log2_in_256ths(f);
      tables.cost[t][place] = static_cast<std::uint16_t>(cost);
      for (std::uint32_t i = 0; i < f; ++i) {
        tables.slots[t * kTableSlots + first + i] = i | f << 12 | static_cast<std::uint32_t>(s) << 24;
      }
      first += f;
    }
    const EntropyTables::Symbol escape = tables.symbols[t][kEscape + kLargestSymbol];
    for (std::size_t place = 0; place < 64; ++place) {
      const bool has = tables.symbols[t][place].frequency > 0 && place < kEscape + kLargestSymbol;
      const EntropyTables::Symbol symbol = has ? tables.symbols[t][place] : escape;
      tables.coded[t * 64 + place] = symbol.frequency | std::uint32_t{symbol.first} << 16 | (has ? 0 : EntropyTables::kIsEscape);
    }
  }
  std::fill_n(tables.coded.begin() + kNoTable * 64, 64, kTableSlots);  // x -> x / 4096 x 4096 + x % 4096
}

const EntropyTables& entropy_tables() {
  static const std::unique_ptr<const EntropyTables> kTables = [] {
    auto tables = std::make_unique<EntropyTables>();
    fill_tables(kEntropyFrequencies, *tables);
    return tables;
  }();
  return *kTables;
}

std::string_view name_of(StripOutcome outcome) noexcept {
  switch (outcome) {
    case StripOutcome::kWhole: return "whole";
    case StripOutcome::kWordsShort: return "it needs more words than it has";
    case StripOutcome::kWordsLeft: return "words are left over";
    case StripOutcome::kEndState: return "a state does not end at 65536";
    case StripOutcome::kEscapes: return "symbols and escapes do not agree";
  }
  return "unknown";
}

Lane open_lane(std::uint32_t bits) {
  Lane lane;
  for (std::uint32_t c = 0; c < 3; ++c) lane.level[c] = static_cast<std::uint8_t>(bits >> (5 * c) & 31u);
  lane.weight[1] = static_cast<std::uint8_t>(bits >> 15 & 15u);
  lane.weight[2] = static_cast<std::uint8_t>(bits >> 19 & 15u);
  lane.shape = static_cast<std::uint8_t>(bits >> 23 & 1u);
  lane.step = static_cast<std::uint8_t>(bits >> 24);
  return lane;
}

std::uint32_t pack_lane(const Lane& lane) {
  std::uint32_t bits = 0;
  for (std::uint32_t c = 0; c < 3; ++c) bits |= std::uint32_t{lane.level[c]} << (5 * c);
  return bits | std::uint32_t{lane.weight[1]} << 15 | std::uint32_t{lane.weight[2]} << 19 |
         std::uint32_t{lane.shape} << 23 | std::uint32_t{lane.step} << 24;
}

}  // namespace cachecard::kernel
