// Encoding of `entropy` in vectors: rows and indices, words. Included once a target by entropy_simd.cpp.
#if defined(CACHECARD_ENTROPY_ENCODE_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef CACHECARD_ENTROPY_ENCODE_INL
#undef CACHECARD_ENTROPY_ENCODE_INL
#else
#define CACHECARD_ENTROPY_ENCODE_INL
#endif

#include <hwy/highway.h>

#include <cstring>

#include "kernel/entropy_decode_inl.hpp"
#include "kernel/entropy_encode.hpp"
#include "kernel/planes_vectors_inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace cachecard::kernel::HWY_NAMESPACE {
#if HWY_NATIVE_FMA

/// kernel::nearest.
HWY_INLINE IndexVector nearest_of(hn::VFromD<Floats> x) {
  const IndexTag ints;
  return hn::Sub(hn::BitCast(ints, hn::Add(x, hn::Set(Floats(), kMagic))), hn::Set(ints, kMagicBits));
}

/// One token; true where all values are met within half a step, and in reach.
template <bool kRefers>
HWY_INLINE bool quantise_token(const LaneArrays& lanes, const StripToken& token, const float* values,
                               const std::int16_t* reference, float reach, std::int16_t* index, std::int16_t* row) {
  const Floats d;
  const IndexTag ints;
  const hn::Rebind<std::int16_t, Floats> shorts;
  const auto multiplier = hn::Set(ints, static_cast<std::int32_t>(token.multiplier));
  const auto inverse_step = hn::Set(d, 1.0f / static_cast<float>(token.multiplier));
  const auto most = hn::Set(d, reach);
  const auto least = hn::Set(d, -reach);
  auto error = hn::Zero(d);
  auto farthest = hn::Zero(d);
  for (std::size_t c = 0; c < kStripChannels; c += kLanes) {
    const auto target = hn::Mul(hn::LoadU(d, values + c), hn::Load(d, lanes.inverse.data() + c));
    auto predicted = hn::Zero(ints);
    auto steps = hn::Mul(hn::Set(d, 8.0f), target);
    if constexpr (kRefers) {
      predicted = hn::Mul(hn::Load(ints, lanes.weight[token.reference].data() + c),
                          hn::PromoteTo(ints, hn::LoadU(shorts, reference + c)));
      steps = hn::Sub(steps, hn::ConvertTo(d, predicted));
    }
    const auto q = nearest_of(hn::Min(hn::Max(hn::Mul(steps, inverse_step), least), most));
    const auto sum = hn::Add(hn::Add(predicted, hn::Mul(multiplier, q)), hn::Set(ints, 4));
    const auto a = hn::DemoteTo(shorts, hn::ShiftRight<3>(sum));
    hn::StoreU(a, shorts, row + c);
    hn::StoreU(hn::DemoteTo(shorts, q), shorts, index + c);
    error = hn::Max(error, hn::Abs(hn::Sub(target, hn::ConvertTo(d, hn::PromoteTo(ints, a)))));
    farthest = hn::Max(farthest, hn::Abs(target));
  }
  const auto within = hn::Set(d, largest_error(static_cast<std::int32_t>(token.multiplier)));
  return hn::AllTrue(d, hn::And(hn::Le(error, within), hn::Le(farthest, most)));
}

HWY_NOINLINE std::size_t quantise_strip(const LaneArrays& lanes, std::span<const StripToken> tokens,
                                        const StripValues& values, float reach, std::int16_t* index, std::int16_t* rows,
                                        std::uint8_t* missed) {
  std::size_t misses = 0;
  for (std::size_t t = 0; t < tokens.size(); ++t) {
    const StripToken token = tokens[t];
    std::int16_t* row = rows + t * kStripChannels;
    std::int16_t* own = index + t * kStripChannels;
    if (token.coded == 0) {
      std::memset(row, 0, kStripChannels * sizeof(*row));
      std::memset(own, 0, kStripChannels * sizeof(*own));
      continue;
    }
    const bool met = token.reference == 0
                         ? quantise_token<false>(lanes, token, values.token(t), row, reach, own, row)
                         : quantise_token<true>(lanes, token, values.token(t),
                                                row - std::size_t{token.distance} * kStripChannels, reach, own, row);
    if (HWY_LIKELY(met)) continue;
    ++misses;
    if (missed != nullptr) missed[t] = 1;
  }
  return misses;
}

/// A strip's lanes as one class and one shift of a token see them, the last state first.
struct CodedView {
  alignas(64) std::uint32_t first[kStripChannels];  ///< entry of the lane's table
  alignas(64) std::uint32_t low_bits[kStripChannels];
  bool has_low = false;
  bool known = false;
};

class CodedViews {
 public:
  explicit CodedViews(std::span<const Lane> lanes) : lanes_(lanes) {
    for (CodedView& view : views_) view.known = false;
  }
  HWY_INLINE const CodedView& of(const StripToken& token) {
    CodedView& view = views_[token.reference * 16 + token.shift + 8];
    if (HWY_UNLIKELY(!view.known)) fill(token, view);
    return view;
  }

 private:
  HWY_NOINLINE void fill(const StripToken& token, CodedView& view) const {
    view.known = true;
    view.has_low = false;
    for (std::uint32_t i = 0; i < kStripChannels; ++i) {
      const std::uint32_t s = kStripChannels - 1 - i;
      const std::uint32_t c = 2 * (s % kStripPairs) + s / kStripPairs;
      LaneTable table{kNoTable, 0};
      if (c < lanes_.size()) table = lane_table(lanes_[c].level[token.reference], token.shift, lanes_[c].shape);
      view.first[i] = table.table * 64u;
      view.low_bits[i] = table.low_bits;
      view.has_low |= table.low_bits > 0;
    }
  }
  std::span<const Lane> lanes_;
  CodedView views_[48];
};

/// For each set of lanes (at most eight), by its bits: the bytes of their words, side by side.
struct CompressTable {
  alignas(64) std::uint8_t of[256][16];
  constexpr CompressTable() : of() {
    for (unsigned bits = 0; bits < 256; ++bits) {
      unsigned next = 0;
      for (unsigned lane = 0; lane < 8; ++lane) {
        if ((bits >> lane & 1u) == 0) continue;
        of[bits][next++] = static_cast<std::uint8_t>(2 * lane);
        of[bits][next++] = static_cast<std::uint8_t>(2 * lane + 1);
      }
    }
  }
};
inline constexpr CompressTable kCompress;

/// Puts out the lower half of the states in `full`, in the order of lanes.
template <class Mask>
HWY_INLINE void spill(StateTag d, Mask full, StateVector& x, std::uint16_t*& words) {
  const hn::Rebind<std::uint16_t, StateTag> halves;
  const IndexTag ints;
  const auto low = hn::BitCast(ints, hn::And(x, hn::Set(d, 0xFFFFu)));
#if HWY_TARGET <= HWY_AVX3
  const hn::Vec512<std::int32_t> put{_mm512_maskz_compress_epi32(full.raw, low.raw)};
  hn::StoreU(hn::DemoteTo(halves, put), halves, words);
  words += hn::CountTrue(d, full);
#else
#if HWY_TARGET == HWY_AVX2
  const auto bits = static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(hn::VecFromMask(d, full).raw)));
#else
  std::uint8_t bits = 0;
  hn::StoreMaskBits(d, full, &bits);
#endif
  const hn::Repartition<std::uint8_t, decltype(halves)> bytes;
  const auto put = hn::TableLookupBytes(hn::BitCast(bytes, hn::DemoteTo(halves, low)), hn::LoadU(bytes, kCompress.of[bits]));
  hn::StoreU(hn::BitCast(halves, put), halves, words);
  words += __builtin_popcount(bits);
#endif
  x = hn::IfThenElse(full, hn::ShiftRight<16>(x), x);
}

/// Raw low bits of one vector: `low` of k bits under each state.
HWY_INLINE void put_low(StateTag d, StateVector k, StateVector low, StateVector& x, std::uint16_t*& words) {
  const auto over = hn::Shr(hn::ShiftRight<1>(x), hn::Sub(hn::Set(d, 31u), k));  // x >> (32 - k), 0 for k = 0
  spill(d, hn::Ne(over, hn::Zero(d)), x, words);
  x = hn::Or(hn::Shl(x, k), low);
}

/// x = x / f x 4096 + x % f + first slot. The quotient is below 2^20: f32 misses it by 1 at most, which the rest tells.
HWY_INLINE void put_symbol(StateTag d, StateVector entry, StateVector& x, std::uint16_t*& words) {
  const IndexTag ints;
  const Floats floats;
  const auto f = hn::BitCast(ints, hn::And(entry, hn::Set(d, 0xFFFFu)));
  const auto first = hn::BitCast(ints, hn::And(hn::ShiftRight<16>(entry), hn::Set(d, 0xFFFu)));
  const auto upper = hn::BitCast(ints, hn::ShiftRight<20>(x));
  spill(d, hn::RebindMask(d, hn::Gt(upper, hn::Sub(f, hn::Set(ints, 1)))), x, words);
  const auto half = hn::ConvertTo(floats, hn::BitCast(ints, hn::ShiftRight<1>(x)));
  auto q = nearest_of(hn::Div(hn::Add(half, half), hn::ConvertTo(floats, f)));
  auto rest = hn::Sub(hn::BitCast(ints, x), hn::Mul(q, f));
  const auto under = hn::BroadcastSignBit(rest);  // -1 where the quotient is one too large
  q = hn::Add(q, under);
  rest = hn::Add(rest, hn::And(under, f));
  const auto over = hn::BroadcastSignBit(hn::Sub(hn::Sub(f, hn::Set(ints, 1)), rest));  // -1 where one too small
  q = hn::Sub(q, over);
  rest = hn::Sub(rest, hn::And(over, f));
  x = hn::BitCast(d, hn::Add(hn::Add(hn::ShiftLeft<kTableBits>(q), rest), first));
}

/// The escapes of a token, the last state first. entries: of its symbols.
HWY_NOINLINE void put_escapes(const std::uint32_t* entries, std::size_t token, const std::int16_t* index, StripSymbols& out) {
  for (std::uint32_t i = 0; i < kStripChannels; ++i) {
    if ((entries[i] & EntropyTables::kIsEscape) == 0) continue;
    const std::uint32_t s = kStripChannels - 1 - i;
    add_escape(out, token, s, index[2 * (s % kStripPairs) + s / kStripPairs]);
  }
}

HWY_NOINLINE void encode_strip(std::span<const Lane> lanes, std::span<const StripToken> tokens, const std::int16_t* index,
                               StripSymbols& out) {
  const StateTag d;
  const IndexTag ints;
  const std::uint32_t* coded = entropy_tables().coded.data();
  CodedViews views(lanes);
  StateVector x[kStateVectors];
  for (auto& states : x) states = hn::Set(d, kLeastState);
  out.word_count = out.escape_count = 0;
  std::uint16_t* words = out.words;
  const auto largest = hn::Set(d, 63u);
  const auto center = hn::Set(ints, kLargestSymbol);
  for (std::size_t t = tokens.size(); t-- > 0;) {
    if (tokens[t].coded == 0) continue;
    const CodedView& view = views.of(tokens[t]);
    const auto* pairs = reinterpret_cast<const std::uint32_t*>(index + t * kStripChannels);
    IndexVector symbol[kStateVectors];
    for (std::size_t v = 0; v < kHalfVectors; ++v) {
      // Odd channels have the upper states.
      const auto both = hn::Reverse(ints, hn::BitCast(ints, hn::LoadU(d, pairs + kStripPairs - (v + 1) * kLanes)));
      symbol[v] = hn::ShiftRight<16>(both);
      symbol[v + kHalfVectors] = hn::ShiftRight<16>(hn::ShiftLeft<16>(both));
    }
    StateVector moved[kStateVectors];
    if (HWY_UNLIKELY(view.has_low)) {
      for (std::size_t v = 0; v < kStateVectors; ++v) {
        const auto k = hn::Load(d, view.low_bits + v * kLanes);
        const auto half = hn::ShiftRight<1>(hn::Shl(hn::Set(d, 1u), k));
        moved[v] = hn::Add(hn::BitCast(d, symbol[v]), half);
        symbol[v] = hn::Shr(hn::BitCast(ints, moved[v]), hn::BitCast(ints, k));
      }
    }
    StateVector entry[kStateVectors];
    auto any = hn::Zero(d);
    for (std::size_t v = 0; v < kStateVectors; ++v) {
      const auto place = hn::Min(hn::BitCast(d, hn::Add(symbol[v], center)), largest);
      const auto at = hn::Add(place, hn::Load(d, view.first + v * kLanes));
      entry[v] = hn::GatherIndex(d, coded, hn::BitCast(ints, at));
      any = hn::Or(any, entry[v]);
    }
    if (HWY_UNLIKELY(view.has_low)) {
      for (std::size_t v = 0; v < kStateVectors; ++v) {
        const auto k = hn::Load(d, view.low_bits + v * kLanes);
        const auto mask = hn::Sub(hn::Shl(hn::Set(d, 1u), k), hn::Set(d, 1u));
        const auto escapes = hn::BitCast(d, hn::BroadcastSignBit(hn::BitCast(ints, entry[v])));
        put_low(d, k, hn::AndNot(escapes, hn::And(moved[v], mask)), x[v], words);
      }
    }
    for (std::size_t v = 0; v < kStateVectors; ++v) put_symbol(d, entry[v], x[v], words);
    if (HWY_UNLIKELY(!hn::AllFalse(ints, hn::Lt(hn::BitCast(ints, any), hn::Zero(ints))))) {
      alignas(64) std::uint32_t entries[kStripChannels];
      for (std::size_t v = 0; v < kStateVectors; ++v) hn::Store(entry[v], d, entries + v * kLanes);
      put_escapes(entries, t, index + t * kStripChannels, out);
    }
  }
  out.word_count = static_cast<std::size_t>(words - out.words);
  for (std::size_t v = 0; v < kStateVectors; ++v) {
    hn::StoreU(hn::Reverse(d, x[v]), d, out.states.data() + kStripChannels - (v + 1) * kLanes);
  }
}

#endif  // HWY_NATIVE_FMA
}  // namespace cachecard::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
