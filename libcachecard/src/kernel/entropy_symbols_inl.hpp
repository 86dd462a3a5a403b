// Symbols of `entropy`: which one a state's slot belongs to. Included once a target by entropy_simd.cpp.
#if defined(CACHECARD_ENTROPY_SYMBOLS_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef CACHECARD_ENTROPY_SYMBOLS_INL
#undef CACHECARD_ENTROPY_SYMBOLS_INL
#else
#define CACHECARD_ENTROPY_SYMBOLS_INL
#endif

#include <hwy/highway.h>

#include "kernel/entropy.hpp"
#include "kernel/entropy_limits.hpp"
#include "kernel/planes_vectors_inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace cachecard::kernel::HWY_NAMESPACE {
#if HWY_NATIVE_FMA

using StateTag = hn::ScalableTag<std::uint32_t>;
using IndexTag = hn::RebindToSigned<StateTag>;
using ShortTag = hn::Repartition<std::uint16_t, StateTag>;
using StateVector = hn::VFromD<StateTag>;
using IndexVector = hn::VFromD<IndexTag>;
using ShortVector = hn::VFromD<ShortTag>;
inline constexpr std::size_t kStateVectors = kStripChannels / kLanes;
inline constexpr std::size_t kHalfVectors = kStateVectors / 2;  ///< of the even channels, and of the odd ones
inline constexpr std::size_t kShorts = 2 * kLanes;  ///< channels of a vector of a row: there are kHalfVectors

/// A strip's lanes as one class and one shift of a token see them, by channel.
struct LaneView {
  alignas(64) std::uint16_t table[kStripChannels];
  alignas(64) std::uint16_t low_bits[kStripChannels];
  bool has_low;
};

/// The views of a strip, made as they are met: 30 of the 48 are.
class LaneViews {
 public:
  explicit LaneViews(const Lane* lanes) {
    for (std::size_t c = 0; c < kStripChannels; ++c) {
      for (std::size_t k = 0; k < 3; ++k) levels_[k][c] = lanes[c].level[k];
      shape_[c] = static_cast<std::uint16_t>(12 * lanes[c].shape);
    }
  }
  HWY_INLINE const LaneView& of(const StripToken& token) {
    const auto number = static_cast<std::size_t>(token.reference * 16 + token.shift + 8);
    LaneView& view = views_[number];
    if (HWY_UNLIKELY((known_ >> number & 1u) == 0)) {
      known_ |= std::uint64_t{1} << number;
      fill(token, view);
    }
    return view;
  }

 private:
  /// lane_table() of all lanes.
  HWY_NOINLINE void fill(const StripToken& token, LaneView& view) const {
    const ShortTag d;
    const auto shift = hn::Set(d, static_cast<std::uint16_t>(token.shift + 8));
    auto all_low = hn::Zero(d);
    for (std::size_t c = 0; c < kStripChannels; c += kShorts) {
      const auto sum =
          hn::SaturatedSub(hn::Add(hn::Load(d, levels_[token.reference] + c), shift), hn::Set(d, 16));
      const auto lambda = hn::Min(sum, hn::Set(d, 23));
      const auto low_bits = hn::ShiftRight<1>(hn::SaturatedSub(lambda, hn::Set(d, 10)));
      hn::Store(low_bits, d, view.low_bits + c);
      hn::Store(hn::Add(hn::Load(d, shape_ + c), hn::Sub(lambda, hn::Add(low_bits, low_bits))), d,
                view.table + c);
      all_low = hn::Or(all_low, low_bits);
    }
    view.has_low = !hn::AllTrue(d, hn::Eq(all_low, hn::Zero(d)));
  }

  alignas(64) std::uint16_t levels_[3][kStripChannels];
  alignas(64) std::uint16_t shape_[kStripChannels];
  std::uint64_t known_ = 0;
  LaneView views_[48];
};

/// What the states of neighbouring channels say.
struct Symbols {
  ShortVector frequency;
  ShortVector offset;  ///< slot - first slot
  ShortVector value;   ///< signed
};

/// Symbols of a token from the tables; its states lack their words yet. Returns whether there are escapes.
HWY_INLINE bool gather_symbols(StateVector* x, const LaneView& view, ShortVector* index) {
  const StateTag d;
  const IndexTag ints;
  const ShortTag shorts;
  const std::uint32_t* slots = entropy_tables().slots.data();
  const auto slot_mask = hn::Set(d, kTableSlots - 1);
  const auto table_mask = hn::Set(d, 0xFFFFu << kTableBits);
  auto largest = hn::Zero(ints);
  for (std::size_t v = 0; v < kHalfVectors; ++v) {
    const auto tables = hn::BitCast(d, hn::Load(shorts, view.table + v * kShorts));
    IndexVector entry[2];
    for (std::size_t odd = 0; odd < 2; ++odd) {
      StateVector& state = x[v + odd * kHalfVectors];
      const auto table =
          odd == 0 ? hn::ShiftLeft<kTableBits>(tables) : hn::ShiftRight<16 - kTableBits>(tables);
      const auto slot = hn::Or(hn::And(table, table_mask), hn::And(state, slot_mask));
      const auto found = hn::GatherIndex(d, slots, hn::BitCast(ints, slot));
      const auto frequency = hn::And(hn::ShiftRight<12>(found), slot_mask);
      state = hn::Add(hn::Mul(frequency, hn::ShiftRight<kTableBits>(state)), hn::And(found, slot_mask));
      entry[odd] = hn::BitCast(ints, found);
      largest = hn::Max(largest, entry[odd]);
    }
    index[v] = hn::OddEven(hn::BitCast(shorts, hn::ShiftRight<8>(entry[1])),
                           hn::BitCast(shorts, hn::ShiftRight<24>(entry[0])));
  }
  return !hn::AllFalse(ints, hn::Gt(largest, hn::Set(ints, (kEscape << 24) - 1)));
}

// Other vectors hold too few of the tables' limits: comparing takes longer than gathering.
#if HWY_TARGET <= HWY_AVX3

inline constexpr std::size_t kMost = kCompared;
inline constexpr std::size_t kMiddle = kMost / 2 + 1;

/// v where the mask is not set, a - b where it is.
HWY_INLINE ShortVector subtract_where(__mmask32 mask, ShortVector v, ShortVector a, ShortVector b) {
  return ShortVector{_mm512_mask_sub_epi16(v.raw, mask, a.raw, b.raw)};
}

/// Limit i of each lane's table, where the mask is set limit j.
HWY_INLINE ShortVector limit(ShortVector table, std::size_t i) {
  return ShortVector{
      _mm512_permutexvar_epi16(table.raw, hn::Load(ShortTag(), kSlotLimits.rows[i].data()).raw)};
}
HWY_INLINE ShortVector limit(ShortVector table, std::size_t i, __mmask32 mask, std::size_t j) {
  const auto row = hn::Load(ShortTag(), kSlotLimits.rows[j].data());
  return ShortVector{_mm512_mask_permutexvar_epi16(limit(table, i).raw, mask, table.raw, row.raw)};
}

/// Symbols up to the magnitude kMost. magnitude says more than that of any other, and the rest then says
/// nothing. A table is the same on both sides: place counts slots from symbol 0 on, upwards from its first
/// one on the positive side, downwards from its last one on the negative side, so that one set of limits
/// serves both. place - limit wraps around where the limit is above: the least difference is that to the
/// symbol's own limit, the largest that to the next one.
HWY_INLINE void compare(const ShortVector* slots, const ShortVector* tables, Symbols* symbols,
                        ShortVector* magnitude) {
  const ShortTag d;
  __mmask32 negative[kHalfVectors];
  __mmask32 upper[kHalfVectors];
  ShortVector place[kHalfVectors];
  ShortVector least[kHalfVectors];
  ShortVector largest[kHalfVectors];
#pragma GCC unroll 16
  for (std::size_t v = 0; v < kHalfVectors; ++v) {
    const auto begin = limit(tables[v], 0);
    negative[v] = hn::Lt(slots[v], begin).raw;
    place[v] = subtract_where(negative[v], hn::Sub(slots[v], begin), limit(tables[v], 1), slots[v]);
  }
#pragma GCC unroll 16
  for (std::size_t v = 0; v < kHalfVectors;
       ++v) {  // the limit in the middle says which half of the others matters
    largest[v] = hn::Sub(place[v], limit(tables[v], kMiddle + 1));
    upper[v] = hn::Lt(largest[v], place[v]).raw;
    least[v] = hn::Min(place[v], largest[v]);
  }
  for (std::size_t m = 1; m < kMiddle; ++m) {
#pragma GCC unroll 16
    for (std::size_t v = 0; v < kHalfVectors; ++v) {
      const auto difference = hn::Sub(place[v], limit(tables[v], m + 1, upper[v], m + 1 + kMiddle));
      least[v] = hn::Min(least[v], difference);
      largest[v] = hn::Max(largest[v], difference);
    }
  }
#pragma GCC unroll 16
  for (std::size_t v = 0; v < kHalfVectors; ++v) {
    symbols[v].frequency = hn::ShiftRight<4>(hn::Sub(least[v], largest[v]));
    symbols[v].offset =
        hn::ShiftRight<4>(subtract_where(negative[v], least[v], hn::Set(d, 0xFFFFu), largest[v]));
    magnitude[v] = hn::AndNot(least[v], hn::Set(d, 15));
    symbols[v].value = subtract_where(negative[v], magnitude[v], hn::Zero(d), magnitude[v]);
  }
}

/// Looks up the symbols above kMost. Returns whether there are escapes.
HWY_NOINLINE bool look_up(const LaneView& view, const StateVector* x, const ShortVector* magnitude,
                          Symbols* symbols) {
  const StateTag d;
  const ShortTag shorts;
  alignas(64) std::uint32_t states[kStateVectors * kLanes];
  alignas(64) std::uint16_t of[4][kStripChannels];
  for (std::size_t v = 0; v < kStateVectors; ++v) hn::Store(x[v], d, states + v * kLanes);
  for (std::size_t v = 0; v < kHalfVectors; ++v) {
    hn::Store(magnitude[v], shorts, of[0] + v * kShorts);
    hn::Store(symbols[v].frequency, shorts, of[1] + v * kShorts);
    hn::Store(symbols[v].offset, shorts, of[2] + v * kShorts);
    hn::Store(symbols[v].value, shorts, of[3] + v * kShorts);
  }
  const std::uint32_t* slots = entropy_tables().slots.data();
  bool has_escapes = false;
  for (std::size_t v = 0; v < kHalfVectors; ++v) {
    auto wide = _mm512_cmpgt_epu16_mask(magnitude[v].raw, hn::Set(shorts, kMost).raw);
    for (; wide != 0; wide &= wide - 1) {
      const std::size_t c = v * kShorts + static_cast<std::size_t>(__builtin_ctz(wide));
      const std::uint32_t slot = states[c / 2 + c % 2 * kStripPairs] & (kTableSlots - 1);
      const std::uint32_t entry = slots[view.table[c] * kTableSlots + slot];
      const std::int32_t symbol = static_cast<std::int32_t>(entry) >> 24;
      of[1][c] = entry >> 12 & 0xFFFu;
      of[2][c] = entry & 0xFFFu;
      of[3][c] = static_cast<std::uint16_t>(symbol);
      has_escapes |= symbol == kEscape;
    }
    symbols[v].frequency = hn::Load(shorts, of[1] + v * kShorts);
    symbols[v].offset = hn::Load(shorts, of[2] + v * kShorts);
    symbols[v].value = hn::Load(shorts, of[3] + v * kShorts);
  }
  return has_escapes;
}

/// Whether a token has no more than one symbol that is not compared, as the tables have it; a few tokens
/// stand for all.
inline bool compares(LaneViews& views, std::span<const StripToken> tokens) {
  std::uint64_t others = 0;
  std::uint64_t count = 0;
  for (std::size_t t = 0; t < tokens.size(); t += 1 + tokens.size() / 32) {
    if (tokens[t].coded == 0) continue;
    const LaneView& view = views.of(tokens[t]);
    for (const std::uint16_t table : view.table) others += kSlotLimits.others[table];
    ++count;
  }
  return others <= count * kTableSlots;
}

/// As gather_symbols(), faster where few lanes need a look-up.
HWY_INLINE bool compare_symbols(StateVector* x, const LaneView& view, ShortVector* index) {
  const StateTag d;
  const ShortTag shorts;
  ShortVector slots[kHalfVectors];
  ShortVector tables[kHalfVectors];
  ShortVector magnitude[kHalfVectors];
  Symbols symbols[kHalfVectors];
  auto largest = hn::Zero(shorts);
#pragma GCC unroll 16
  for (std::size_t v = 0; v < kHalfVectors; ++v) {
    const auto odd = hn::BitCast(shorts, hn::ShiftLeft<16>(x[v + kHalfVectors]));
    slots[v] = hn::ShiftLeft<4>(hn::OddEven(odd, hn::BitCast(shorts, x[v])));
    tables[v] = hn::Load(shorts, view.table + v * kShorts);
  }
  compare(slots, tables, symbols, magnitude);
#pragma GCC unroll 16
  for (std::size_t v = 0; v < kHalfVectors; ++v) largest = hn::Max(largest, magnitude[v]);
  bool has_escapes = false;
  if (HWY_UNLIKELY(!hn::AllFalse(shorts, hn::Gt(largest, hn::Set(shorts, kMost))))) {
    StateVector states[kStateVectors];  // copies, so that what they are copied from stays in registers
    Symbols found[kHalfVectors];
    ShortVector magnitudes[kHalfVectors];
#pragma GCC unroll 16
    for (std::size_t v = 0; v < kStateVectors; ++v) states[v] = x[v];
#pragma GCC unroll 16
    for (std::size_t v = 0; v < kHalfVectors; ++v) magnitudes[v] = magnitude[v];
#pragma GCC unroll 16
    for (std::size_t v = 0; v < kHalfVectors; ++v) found[v] = symbols[v];
    has_escapes = look_up(view, states, magnitudes, found);
#pragma GCC unroll 16
    for (std::size_t v = 0; v < kHalfVectors; ++v) symbols[v] = found[v];
  }
  const auto lower = hn::Set(d, 0xFFFFu);
#pragma GCC unroll 16
  for (std::size_t v = 0; v < kHalfVectors; ++v) {
    const auto frequency = hn::BitCast(d, symbols[v].frequency);
    const auto offset = hn::BitCast(d, symbols[v].offset);
    StateVector& even = x[v];
    StateVector& odd = x[v + kHalfVectors];
    index[v] = symbols[v].value;
    even =
        hn::Add(hn::Mul(hn::And(frequency, lower), hn::ShiftRight<kTableBits>(even)), hn::And(offset, lower));
    odd = hn::Add(hn::Mul(hn::ShiftRight<16>(frequency), hn::ShiftRight<kTableBits>(odd)),
                  hn::ShiftRight<16>(offset));
  }
  return has_escapes;
}

#endif

#endif  // HWY_NATIVE_FMA
}  // namespace cachecard::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
