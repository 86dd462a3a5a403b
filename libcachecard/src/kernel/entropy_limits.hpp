#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "kernel/entropy_frequencies.hpp"

namespace cachecard::kernel {

/// Magnitudes that are compared, of 31: at 2 bits a value one token in twelve has a larger one. 14 at most:
/// they and the one above are told apart by four bits.
inline constexpr std::size_t kCompared = 10;
static_assert(kCompared % 2 == 0 && kCompared <= 14);

/// What finds a symbol of a table by comparing, in sixteenths of a slot. 0: 15 less than the first slot of
/// symbol 0. 1: 15 more than its last. m + 1: m more than the first slot of magnitude m, counted from symbol
/// 0's first.
struct SlotLimits {
  alignas(64) std::array<std::array<std::uint16_t, 32>, kCompared + 3> rows{};  ///< by table

  /// Slots of symbols that are not compared, escapes among them, by table.
  std::array<std::uint16_t, 32> others{};

  constexpr SlotLimits() {
    for (std::size_t t = 0; t < kTableCount; ++t) {
      std::uint32_t compared = kEntropyFrequencies[t][0];
      for (std::size_t m = 1; m <= kCompared; ++m) compared += 2u * kEntropyFrequencies[t][m];
      others[t] = static_cast<std::uint16_t>(kTableSlots - compared);
      const TableFrequencies& of = kEntropyFrequencies[t];
      std::uint32_t first = 0;
      for (std::size_t m = 1; m <= kLargestSymbol; ++m) first += of[m];
      rows[0][t] = static_cast<std::uint16_t>(16 * first - 15);
      rows[1][t] = static_cast<std::uint16_t>(16 * (first + of[0] - 1) + 15);
      std::uint32_t from_middle = 0;
      for (std::size_t m = 1; m <= kCompared + 1; ++m) {
        from_middle += of[m - 1];
        rows[m + 1][t] = static_cast<std::uint16_t>(16 * from_middle + m);
      }
    }
  }
};
inline constexpr SlotLimits kSlotLimits;

}  // namespace cachecard::kernel
