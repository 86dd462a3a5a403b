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
#include "kernel/planes_vectors_inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace cachecard::kernel::HWY_NAMESPACE {
#if HWY_NATIVE_FMA

using StateTag = hn::ScalableTag<std::uint32_t>;
using IndexTag = hn::RebindToSigned<StateTag>;
using StateVector = hn::VFromD<StateTag>;
using IndexVector = hn::VFromD<IndexTag>;
inline constexpr std::size_t kStateVectors = kStripChannels / kLanes;
inline constexpr std::size_t kHalfVectors = kStateVectors / 2;  ///< of the even channels, and of the odd ones

/// A strip's lanes as one class and one shift of a token see them.
struct LaneView {
  alignas(64) std::uint32_t base[kStripChannels];  ///< first slot of the lane's table, by state
  alignas(64) std::uint32_t low_bits[kStripChannels];
  bool has_low = false;
  bool known = false;
};

/// The views of a strip, made as they are met: few of the 48 are.
class LaneViews {
 public:
  explicit LaneViews(const Lane* lanes) : lanes_(lanes) {
    for (LaneView& view : views_) view.known = false;
  }
  HWY_INLINE const LaneView& of(const StripToken& token) {
    LaneView& view = views_[token.reference * 16 + token.shift + 8];
    if (HWY_UNLIKELY(!view.known)) fill(token, view);
    return view;
  }

 private:
  HWY_NOINLINE void fill(const StripToken& token, LaneView& view) const {
    view.known = true;
    view.has_low = false;
    for (std::uint32_t s = 0; s < kStripChannels; ++s) {
      const Lane& lane = lanes_[2 * (s % kStripPairs) + s / kStripPairs];
      const LaneTable table = lane_table(lane.level[token.reference], token.shift, lane.shape);
      view.base[s] = table.table * kTableSlots;
      view.low_bits[s] = table.low_bits;
      view.has_low |= table.low_bits > 0;
    }
  }
  const Lane* lanes_;
  LaneView views_[48];
};

/// For each set of lanes (at most eight), by its bits: which of the next words each of them takes.
struct ExpandTable {
  alignas(64) std::uint8_t of[256][8];
  constexpr ExpandTable() : of() {
    for (unsigned bits = 0; bits < 256; ++bits) {
      std::uint8_t next = 0;
      for (unsigned lane = 0; lane < 8; ++lane) of[bits][lane] = (bits >> lane & 1u) != 0 ? next++ : std::uint8_t{0};
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
  const auto bits = static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(hn::VecFromMask(d, low).raw)));
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

/// index x multiplier + reference x weight, where all fit i16. The reference stands in the lower or the upper half.
template <bool kUpper>
HWY_INLINE IndexVector row_sum(IndexVector index, StateVector references, std::uint32_t multiplier,
                               const std::uint32_t* weights) {
  const StateTag d;
  const IndexTag ints;
#if HWY_TARGET <= HWY_AVX2
  const auto half = kUpper ? hn::ShiftRight<16>(references) : hn::And(references, hn::Set(d, 0xFFFFu));
  const auto pair = hn::Or(hn::ShiftLeft<16>(hn::BitCast(d, index)), half);
  const auto by = hn::Or(hn::Set(d, multiplier << 16), hn::Load(d, weights));
#if HWY_TARGET <= HWY_AVX3
  return IndexVector{_mm512_madd_epi16(pair.raw, by.raw)};
#else
  return IndexVector{_mm256_madd_epi16(pair.raw, by.raw)};
#endif
#else
  const auto both = hn::BitCast(ints, references);
  const auto reference = hn::ShiftRight<16>(kUpper ? both : hn::ShiftLeft<16>(both));
  return hn::Add(hn::Mul(index, hn::Set(ints, static_cast<std::int32_t>(multiplier))),
                 hn::Mul(reference, hn::BitCast(ints, hn::Load(d, weights))));
#endif
}

HWY_INLINE auto is_low(StateTag d, StateVector x) { return hn::Eq(hn::ShiftRight<16>(x), hn::Zero(d)); }

/// Raw low bits of one vector, and its symbols with them.
HWY_INLINE void take_low(StateTag d, const std::uint32_t* low_bits, StateVector& x, IndexVector& index,
                         const std::uint16_t*& words) {
  const IndexTag ints;
  const auto k = hn::Load(d, low_bits);
  const auto has = hn::Ne(k, hn::Zero(d));
  const auto one = hn::Set(d, 1u);
  const auto power = hn::Shl(one, k);
  const auto low = hn::And(x, hn::Sub(power, one));
  const auto half = hn::IfThenElseZero(has, hn::ShiftRight<1>(power));
  index = hn::Add(hn::Shl(index, hn::BitCast(ints, k)), hn::BitCast(ints, hn::Sub(low, half)));
  x = hn::Shr(x, k);
  x = refilled(d, x, hn::And(has, is_low(d, x)), words);
}

/// The escapes of a token: symbols name them, the list has them, and both must agree.
HWY_NOINLINE bool take_escapes(const Strip& strip, std::uint32_t token, const std::int32_t* symbols, std::size_t& next,
                               std::int32_t* index) {
  const std::uint32_t first = token * kStripChannels;
  for (std::uint32_t s = 0; s < kStripChannels; ++s) {
    const bool listed = next < strip.escape_keys.size() && strip.escape_keys[next] == first + s;
    if (listed != (symbols[s] == kEscape)) return false;
    if (listed) index[s] = strip.escapes[next++];
  }
  return true;
}

HWY_NOINLINE StripOutcome decode_strip(const Strip& strip, std::span<const StripToken> tokens, std::int16_t* rows) {
  if (strip.channels != kStripChannels) return entropy_scalar().decode_strip(strip, tokens, rows);
  const StateTag d;
  const IndexTag ints;
  const hn::Repartition<std::int16_t, StateTag> shorts;
  const hn::Repartition<std::uint8_t, StateTag> bytes;
  // Even and odd values of a block of 128 bits, from four and four to two and two.
  alignas(16) static constexpr std::uint8_t kInterleave[16] = {0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15};
  const auto interleave = hn::LoadDup128(bytes, kInterleave);
  const std::uint32_t* slots = entropy_tables().slots.data();
  LaneViews views(strip.lanes);
  alignas(64) std::uint32_t weights[3][kStripChannels];
  for (std::uint32_t s = 0; s < kStripChannels; ++s) {
    const Lane& lane = strip.lanes[2 * (s % kStripPairs) + s / kStripPairs];
    for (std::uint32_t k = 0; k < 3; ++k) weights[k][s] = k == 0 ? 0 : lane.weight[k];
  }
  StateVector x[kStateVectors];
  for (std::size_t v = 0; v < kStateVectors; ++v) x[v] = hn::LoadU(d, strip.states + v * kLanes);
  const std::uint16_t* words = strip.words;
  const std::uint16_t* const end = words + strip.word_count;
  std::size_t escape = 0;
  const auto slot_mask = hn::Set(d, kTableSlots - 1);
  for (std::size_t t = 0; t < tokens.size(); ++t) {
    const StripToken token = tokens[t];
    auto* row = reinterpret_cast<std::uint32_t*>(rows + t * kStripChannels);
    if (token.coded == 0) {
      std::memset(row, 0, kStripChannels * sizeof(std::int16_t));
      continue;
    }
    const LaneView& view = views.of(token);
    StateVector entry[kStateVectors];
    for (std::size_t v = 0; v < kStateVectors; ++v) {
      const auto slot = hn::Add(hn::Load(d, view.base + v * kLanes), hn::And(x[v], slot_mask));
      entry[v] = hn::GatherIndex(d, slots, hn::BitCast(ints, slot));
    }
    IndexVector index[kStateVectors];
    auto largest = hn::Set(ints, 0);
    for (std::size_t v = 0; v < kStateVectors; ++v) {
      const auto frequency = hn::And(hn::ShiftRight<12>(entry[v]), slot_mask);
      x[v] = hn::Add(hn::Mul(frequency, hn::ShiftRight<kTableBits>(x[v])), hn::And(entry[v], slot_mask));
      x[v] = refilled(d, x[v], is_low(d, x[v]), words);
      index[v] = hn::ShiftRight<24>(hn::BitCast(ints, entry[v]));
      largest = hn::Max(largest, index[v]);
    }
    const bool has_escapes = !hn::AllFalse(ints, hn::Eq(largest, hn::Set(ints, kEscape))) ||
                             (escape < strip.escape_keys.size() && strip.escape_keys[escape] / kStripChannels == t);
    alignas(64) std::int32_t symbols[kStripChannels];
    if (HWY_UNLIKELY(has_escapes)) {
      for (std::size_t v = 0; v < kStateVectors; ++v) hn::Store(index[v], ints, symbols + v * kLanes);
    }
    if (view.has_low) {
      for (std::size_t v = 0; v < kStateVectors; ++v) take_low(d, view.low_bits + v * kLanes, x[v], index[v], words);
    }
    if (HWY_UNLIKELY(has_escapes)) {
      alignas(64) std::int32_t whole[kStripChannels];
      for (std::size_t v = 0; v < kStateVectors; ++v) hn::Store(index[v], ints, whole + v * kLanes);
      if (!take_escapes(strip, static_cast<std::uint32_t>(t), symbols, escape, whole)) return StripOutcome::kEscapes;
      for (std::size_t v = 0; v < kStateVectors; ++v) index[v] = hn::Load(ints, whole + v * kLanes);
    }
    if (HWY_UNLIKELY(words > end)) return StripOutcome::kWordsShort;
    const std::uint32_t* reference = row - std::size_t{token.distance} * (kStripChannels / 2);
    const std::uint32_t* weight = weights[token.reference];
    const auto four = hn::Set(ints, 4);
    for (std::size_t v = 0; v < kHalfVectors; ++v) {
      const auto before = token.reference == 0 ? hn::Zero(d) : hn::LoadU(d, reference + v * kLanes);
      const auto a = row_sum<false>(index[v], before, token.multiplier, weight + v * kLanes);
      const auto b = row_sum<true>(index[v + kHalfVectors], before, token.multiplier, weight + (v + kHalfVectors) * kLanes);
      const auto both = hn::ReorderDemote2To(shorts, hn::ShiftRight<3>(hn::Add(a, four)), hn::ShiftRight<3>(hn::Add(b, four)));
      const auto ordered = hn::TableLookupBytes(hn::BitCast(bytes, both), interleave);
      hn::StoreU(hn::BitCast(d, ordered), d, row + v * kLanes);
    }
  }
  if (words < end) return StripOutcome::kWordsLeft;
  auto all = hn::Eq(x[0], hn::Set(d, kLeastState));
  for (std::size_t v = 1; v < kStateVectors; ++v) all = hn::And(all, hn::Eq(x[v], hn::Set(d, kLeastState)));
  if (!hn::AllTrue(d, all)) return StripOutcome::kEndState;
  return escape == strip.escape_keys.size() ? StripOutcome::kWhole : StripOutcome::kEscapes;
}

#endif  // HWY_NATIVE_FMA
}  // namespace cachecard::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
