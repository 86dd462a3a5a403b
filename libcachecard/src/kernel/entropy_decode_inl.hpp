// Decoding of `entropy` in vectors. Included once a target by entropy_simd.cpp.
#if defined(CACHECARD_ENTROPY_DECODE_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef CACHECARD_ENTROPY_DECODE_INL
#undef CACHECARD_ENTROPY_DECODE_INL
#else
#define CACHECARD_ENTROPY_DECODE_INL
#endif

#include <hwy/highway.h>

#include <cstring>

#include "kernel/entropy.hpp"
#include "kernel/entropy_symbols_inl.hpp"
#include "kernel/planes_vectors_inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace cachecard::kernel::HWY_NAMESPACE {
#if HWY_NATIVE_FMA

/// For each set of lanes (at most eight), by its bits: which of the next words each of them takes.
struct ExpandTable {
  alignas(64) std::uint8_t of[256][8];
  constexpr ExpandTable() : of() {
    for (unsigned bits = 0; bits < 256; ++bits) {
      std::uint8_t next = 0;
      for (unsigned lane = 0; lane < 8; ++lane)
        of[bits][lane] = (bits >> lane & 1u) != 0 ? next++ : std::uint8_t{0};
    }
  }
};
inline constexpr ExpandTable kExpand;

/// Words for the states of one vector that fell below the least.
template <class Mask>
HWY_INLINE StateVector refilled(StateTag d, StateVector x, Mask low, const std::uint16_t*& words) {
  const auto next = hn::PromoteTo(d, hn::LoadU(hn::Rebind<std::uint16_t, StateTag>(), words));
#if HWY_TARGET <= HWY_AVX3
  const StateVector taken{_mm512_maskz_expand_epi32(low.raw, next.raw)};
  words += hn::CountTrue(d, low);
#else
#if HWY_TARGET == HWY_AVX2
  const auto bits =
      static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(hn::VecFromMask(d, low).raw)));
  words += __builtin_popcount(bits);
#else
  std::uint8_t bits = 0;
  hn::StoreMaskBits(d, low, &bits);
  words += hn::CountTrue(d, low);
#endif
  const hn::Rebind<std::uint8_t, StateTag> bytes;
  const auto places = hn::PromoteTo(hn::RebindToSigned<StateTag>(), hn::LoadU(bytes, kExpand.of[bits]));
  const auto taken = hn::TableLookupLanes(next, hn::IndicesFromVec(d, places));
#endif
  return hn::IfThenElse(low, hn::Or(hn::ShiftLeft<16>(x), taken), x);
}

/// Weights of a strip's references by class, as predicted() wants them.
struct RowWeights {
  alignas(64) std::uint32_t of[3][kStripChannels];

  explicit RowWeights(const Lane* lanes) {
    for (std::size_t k = 0; k < 3; ++k) {
      for (std::size_t i = 0; i < kStripChannels; ++i)
        of[k][i] = k == 0 ? 0 : weight(lanes[place(i)].weight[k]);
    }
  }

 private:
#if HWY_TARGET <= HWY_AVX2
  // Lower halves of blocks of 128 bits, then upper ones; beside a token's multiplier.
  static std::size_t place(std::size_t i) {
    const std::size_t in = i % kShorts;
    return i - in + in % kLanes / 4 * 8 + in / kLanes * 4 + in % 4;
  }
  static std::uint32_t weight(std::uint32_t w) { return w << 16; }
#else
  // Even channels of a vector, then odd ones.
  static std::size_t place(std::size_t i) {
    const std::size_t in = i % kShorts;
    return i - in + in % kLanes * 2 + in / kLanes;
  }
  static std::uint32_t weight(std::uint32_t w) { return w; }
#endif
};

/// row_value() of neighbouring channels.
HWY_INLINE ShortVector predicted(ShortVector index, ShortVector reference, std::uint32_t multiplier,
                                 const std::uint32_t* weights) {
  const ShortTag d;
  const StateTag states;
  const IndexTag ints;
  const hn::Repartition<std::int16_t, StateTag> shorts;
  const auto four = hn::Set(ints, 4);
#if HWY_TARGET <= HWY_AVX2
  const auto first = hn::InterleaveLower(d, index, reference);
  const auto second = hn::InterleaveUpper(d, index, reference);
  const auto by = hn::Set(states, multiplier);
  const auto first_by = hn::Or(by, hn::Load(states, weights));
  const auto second_by = hn::Or(by, hn::Load(states, weights + kLanes));
#if HWY_TARGET <= HWY_AVX3
  const IndexVector a{_mm512_madd_epi16(first.raw, first_by.raw)};
  const IndexVector b{_mm512_madd_epi16(second.raw, second_by.raw)};
#else
  const IndexVector a{_mm256_madd_epi16(first.raw, first_by.raw)};
  const IndexVector b{_mm256_madd_epi16(second.raw, second_by.raw)};
#endif
  const auto both =
      hn::ReorderDemote2To(shorts, hn::ShiftRight<3>(hn::Add(a, four)), hn::ShiftRight<3>(hn::Add(b, four)));
  return hn::BitCast(d, both);
#else
  const auto by = hn::Set(ints, static_cast<std::int32_t>(multiplier));
  const auto indices = hn::BitCast(ints, index);
  const auto before = hn::BitCast(ints, reference);
  const auto even_weight = hn::BitCast(ints, hn::Load(states, weights));
  const auto odd_weight = hn::BitCast(ints, hn::Load(states, weights + kLanes));
  const auto a = hn::Add(hn::Mul(hn::ShiftRight<16>(hn::ShiftLeft<16>(indices)), by),
                         hn::Mul(hn::ShiftRight<16>(hn::ShiftLeft<16>(before)), even_weight));
  const auto b =
      hn::Add(hn::Mul(hn::ShiftRight<16>(indices), by), hn::Mul(hn::ShiftRight<16>(before), odd_weight));
  const auto both =
      hn::ReorderDemote2To(shorts, hn::ShiftRight<3>(hn::Add(a, four)), hn::ShiftRight<3>(hn::Add(b, four)));
  const auto lower = hn::LowerHalf(both);
  const auto upper = hn::UpperHalf(hn::Half<decltype(shorts)>(), both);
  return hn::BitCast(d, hn::Combine(shorts, hn::InterleaveUpper(hn::Half<decltype(shorts)>(), lower, upper),
                                    hn::InterleaveLower(hn::Half<decltype(shorts)>(), lower, upper)));
#endif
}

HWY_INLINE auto is_low(StateTag d, StateVector x) {
#if HWY_TARGET <= HWY_AVX3
  return hn::Lt(x, hn::Set(d, kLeastState));
#else
  return hn::Eq(hn::ShiftRight<16>(x), hn::Zero(d));
#endif
}

/// Raw low bits of one vector of states.
HWY_INLINE StateVector take_low(StateTag d, StateVector k, StateVector& x, const std::uint16_t*& words) {
  const auto has = hn::Ne(k, hn::Zero(d));
  const auto low = hn::And(x, hn::Sub(hn::Shl(hn::Set(d, 1u), k), hn::Set(d, 1u)));
  x = hn::Shr(x, k);
  x = refilled(d, x, hn::And(has, is_low(d, x)), words);
  return low;
}

/// Number of a state's channel.
constexpr std::uint32_t channel_of(std::uint32_t state) {
  return 2 * (state % kStripPairs) + state / kStripPairs;
}

/// The escapes of a token: symbols name them, the list has them, and both must agree.
HWY_NOINLINE bool take_escapes(const Strip& strip, std::uint32_t token, const std::int16_t* symbols,
                               std::size_t& next, std::int16_t* index) {
  const std::uint32_t first = token * kStripChannels;
  for (std::uint32_t s = 0; s < kStripChannels; ++s) {
    const bool listed = next < strip.escape_keys.size() && strip.escape_keys[next] == first + s;
    if (listed != (symbols[channel_of(s)] == kEscape)) return false;
    if (listed) index[channel_of(s)] = strip.escapes[next++];
  }
  return true;
}

/// Raw low bits of a token.
HWY_INLINE void take_low_bits(StateVector* x, const std::uint16_t*& words, const LaneView& view,
                              ShortVector* index) {
  const StateTag d;
  const ShortTag shorts;
  StateVector low[kStateVectors];
#pragma GCC unroll 16
  for (std::size_t v = 0; v < kStateVectors; ++v) {
    const auto both = hn::BitCast(d, hn::Load(shorts, view.low_bits + v % kHalfVectors * kShorts));
    const auto k = v < kHalfVectors ? hn::And(both, hn::Set(d, 0xFFFFu)) : hn::ShiftRight<16>(both);
    low[v] = take_low(d, k, x[v], words);
  }
#pragma GCC unroll 16
  for (std::size_t v = 0; v < kHalfVectors; ++v) {
    const auto k = hn::Load(shorts, view.low_bits + v * kShorts);
    const auto bits = hn::BitCast(shorts, hn::Or(low[v], hn::ShiftLeft<16>(low[v + kHalfVectors])));
    const auto half = hn::ShiftRight<1>(hn::Shl(hn::Set(shorts, 1), k));
    index[v] = hn::Add(hn::Shl(index[v], k), hn::Sub(bits, half));
  }
}

HWY_INLINE void store_row(const ShortVector* row, std::int16_t* out) {
#pragma GCC unroll 16
  for (std::size_t v = 0; v < kHalfVectors; ++v) {
    hn::StoreU(row[v], ShortTag(), reinterpret_cast<std::uint16_t*>(out) + v * kShorts);
  }
}
HWY_INLINE void load_row(const std::int16_t* in, ShortVector* row) {
#pragma GCC unroll 16
  for (std::size_t v = 0; v < kHalfVectors; ++v) {
    row[v] = hn::LoadU(ShortTag(), reinterpret_cast<const std::uint16_t*>(in) + v * kShorts);
  }
}

/// A strip's lanes, and what is made of them.
struct StripLanes {
  explicit StripLanes(const Lane* lanes) : views(lanes), weights(lanes) {}
  LaneViews views;
  RowWeights weights;
};

/// The next escape of a strip's list.
struct NextEscape {
  std::size_t number = 0;
  std::size_t token = 0;

  HWY_INLINE void find(const Strip& strip) {
    token = number < strip.escape_keys.size() ? strip.escape_keys[number] / kStripChannels : ~std::size_t{0};
  }
};

/// kCount strips token by token: while one waits for its states, another is at work. False where one of them
/// is not whole. none: a row of zeros, for tokens without a reference; an address decides, not a branch that
/// nobody can foretell Needs: full strips with the same tokens coded
template <std::size_t kCount, bool kCompares>
HWY_NOINLINE bool decode_together(StripTask* tasks, StripLanes* const* lanes, const std::int16_t* none) {
  const StateTag d;
  StateVector x[kCount][kStateVectors];
  const std::uint16_t* words[kCount];
  NextEscape escapes[kCount];
#pragma GCC unroll 16
  for (std::size_t i = 0; i < kCount; ++i) {
#pragma GCC unroll 16
    for (std::size_t v = 0; v < kStateVectors; ++v)
      x[i][v] = hn::LoadU(d, tasks[i].strip.states + v * kLanes);
    words[i] = tasks[i].strip.words;
    escapes[i].find(tasks[i].strip);
  }
  const std::size_t token_count = tasks[0].tokens.size();
  for (std::size_t t = 0; t < token_count; ++t) {
    if (HWY_UNLIKELY(tasks[0].tokens[t].coded == 0)) {
      for (std::size_t i = 0; i < kCount; ++i)
        std::memset(tasks[i].rows + t * kStripChannels, 0, kStripChannels * 2);
      continue;
    }
    ShortVector index[kCount][kHalfVectors];
    bool has_escapes[kCount];
    const LaneView* views[kCount];
#pragma GCC unroll 16
    for (std::size_t i = 0; i < kCount; ++i) {
      views[i] = &lanes[i]->views.of(tasks[i].tokens[t]);
#if HWY_TARGET <= HWY_AVX3
      has_escapes[i] =
          kCompares ? compare_symbols(x[i], *views[i], index[i]) : gather_symbols(x[i], *views[i], index[i]);
#else
      has_escapes[i] = gather_symbols(x[i], *views[i], index[i]);
#endif
    }
#pragma GCC unroll 16
    for (std::size_t i = 0; i < kCount; ++i) {
#pragma GCC unroll 16
      for (std::size_t v = 0; v < kStateVectors; ++v)
        x[i][v] = refilled(d, x[i][v], is_low(d, x[i][v]), words[i]);
    }
#pragma GCC unroll 16
    for (std::size_t i = 0; i < kCount; ++i) {
      const Strip& strip = tasks[i].strip;
      const StripToken& token = tasks[i].tokens[t];
      std::int16_t* row = tasks[i].rows + t * kStripChannels;
      if (HWY_LIKELY(!has_escapes[i] && escapes[i].token != t)) {
        if (HWY_UNLIKELY(views[i]->has_low)) take_low_bits(x[i], words[i], *views[i], index[i]);
      } else {
        alignas(64) std::int16_t symbols[kStripChannels];
        alignas(64) std::int16_t whole[kStripChannels];
        store_row(index[i], symbols);
        if (views[i]->has_low) take_low_bits(x[i], words[i], *views[i], index[i]);
        store_row(index[i], whole);
        std::size_t next = escapes[i].number;
        if (!take_escapes(strip, static_cast<std::uint32_t>(t), symbols, next, whole)) {
          tasks[i].outcome = StripOutcome::kEscapes;
          return false;
        }
        escapes[i].number = next;
        escapes[i].find(strip);
        load_row(whole, index[i]);
      }
      if (HWY_UNLIKELY(words[i] > strip.words + strip.word_count)) {
        tasks[i].outcome = StripOutcome::kWordsShort;
        return false;
      }
      const std::int16_t* const before[2] = {none, row - std::size_t{token.distance} * kStripChannels};
      ShortVector reference[kHalfVectors];
      load_row(before[token.reference != 0], reference);
      const std::uint32_t* weights = lanes[i]->weights.of[token.reference];
#pragma GCC unroll 16
      for (std::size_t v = 0; v < kHalfVectors; ++v) {
        index[i][v] = predicted(index[i][v], reference[v], token.multiplier, weights + v * kShorts);
      }
      store_row(index[i], row);
    }
  }
  bool whole = true;
#pragma GCC unroll 16
  for (std::size_t i = 0; i < kCount; ++i) {
    const Strip& strip = tasks[i].strip;
    auto all = hn::Eq(x[i][0], hn::Set(d, kLeastState));
#pragma GCC unroll 16
    for (std::size_t v = 1; v < kStateVectors; ++v)
      all = hn::And(all, hn::Eq(x[i][v], hn::Set(d, kLeastState)));
    tasks[i].outcome = words[i] < strip.words + strip.word_count      ? StripOutcome::kWordsLeft
                       : !hn::AllTrue(d, all)                         ? StripOutcome::kEndState
                       : escapes[i].number < strip.escape_keys.size() ? StripOutcome::kEscapes
                                                                      : StripOutcome::kWhole;
    whole = whole && tasks[i].outcome == StripOutcome::kWhole;
  }
  return whole;
}

alignas(64) inline constexpr std::int16_t kNoReference[kStripChannels] = {};

inline void decode_one(StripTask& task) {
  if (task.strip.channels != kStripChannels) {
    task.outcome = entropy_scalar().decode_strip(task.strip, task.tokens, task.rows);
    return;
  }
  StripLanes lanes(task.strip.lanes);
  StripLanes* const all[1] = {&lanes};
#if HWY_TARGET <= HWY_AVX3
  if (compares(lanes.views, task.tokens)) {
    (void)decode_together<1, true>(&task, all, kNoReference);
    return;
  }
#endif
  (void)decode_together<1, false>(&task, all, kNoReference);
}

#if HWY_TARGET <= HWY_AVX3
/// Whether the same tokens are coded, in full strips.
inline bool go_together(const StripTask& a, const StripTask& b) {
  if (a.strip.channels != kStripChannels || b.strip.channels != kStripChannels) return false;
  if (a.tokens.size() != b.tokens.size()) return false;
  std::uint32_t differences = 0;
  for (std::size_t t = 0; t < a.tokens.size(); ++t) differences |= a.tokens[t].coded ^ b.tokens[t].coded;
  return differences == 0;
}
#endif

void decode_strips(std::span<StripTask> tasks) {
  std::size_t i = 0;
  for (; i + 1 < tasks.size(); ++i) {
#if HWY_TARGET <= HWY_AVX3  // the others have no registers for two
    if (go_together(tasks[i], tasks[i + 1])) {
      StripLanes first(tasks[i].strip.lanes);
      StripLanes second(tasks[i + 1].strip.lanes);
      StripLanes* const both[2] = {&first, &second};
      const bool few = compares(first.views, tasks[i].tokens) && compares(second.views, tasks[i + 1].tokens);
      const bool whole = few ? decode_together<2, true>(&tasks[i], both, kNoReference)
                             : decode_together<2, false>(&tasks[i], both, kNoReference);
      ++i;
      if (whole) continue;
      decode_one(tasks[i - 1]);  // each by itself says how it ends
    }
#endif
    decode_one(tasks[i]);
  }
  if (i < tasks.size()) decode_one(tasks[i]);
}

#endif  // HWY_NATIVE_FMA
}  // namespace cachecard::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
