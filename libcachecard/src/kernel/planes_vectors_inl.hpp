// Vector helpers of the `planes` kernels. Included once a target by planes_simd.cpp, so it has no include guard of the
// common kind.
#if defined(CACHECARD_PLANES_VECTORS_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef CACHECARD_PLANES_VECTORS_INL
#undef CACHECARD_PLANES_VECTORS_INL
#else
#define CACHECARD_PLANES_VECTORS_INL
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cstring>

#include "kernel/planes.hpp"

HWY_BEFORE_NAMESPACE();
namespace cachecard::kernel::HWY_NAMESPACE {
#if HWY_NATIVE_FMA

namespace hn = hwy::HWY_NAMESPACE;

using Floats = hn::ScalableTag<float>;
inline constexpr std::size_t kLanes = hn::MaxLanes(Floats());
/// Channels that are unpacked together: bytes in one vector.
inline constexpr std::size_t kSpan = 4 * kLanes;

/// Where a head's channels lie, with vectors of D.
template <class D>
using Halves = hn::Rebind<hwy::float16_t, D>;
template <class D>
using Shorts = hn::Rebind<std::uint16_t, D>;
template <class D>
using Words = hn::Rebind<std::uint32_t, D>;

/// Lanes 2i and 2i + 1 trade places.
template <std::size_t kBytes, class V>
HWY_INLINE V swap_neighbours(V v) {
  alignas(16) static constexpr std::uint8_t kTables[4][16] = {
      {1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14},
      {2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13},
      {4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11},
      {8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7}};
  using D = hn::DFromV<V>;
  const hn::Repartition<std::uint8_t, D> bytes;
  if constexpr (kBytes <= 8) {
    constexpr std::size_t kRow = kBytes == 1 ? 0 : kBytes == 2 ? 1 : kBytes == 4 ? 2 : 3;
    return hn::BitCast(D(), hn::TableLookupBytes(hn::BitCast(bytes, v), hn::LoadDup128(bytes, kTables[kRow])));
  } else if constexpr (kBytes == 16) {
    return hn::SwapAdjacentBlocks(v);
  } else {
    return hn::ConcatLowerUpper(D(), v, v);
  }
}

/// -1 in the upper of two neighbouring runs of kRun lanes, else 0.
template <std::size_t kRun, class D>
HWY_INLINE hn::VFromD<D> upper_runs(D d) {
  using Lane = hn::TFromD<D>;
  struct Table {
    alignas(64) Lane lanes[64 / sizeof(Lane)];
    constexpr Table() : lanes() {
      for (std::size_t i = 0; i < 64 / sizeof(Lane); ++i) lanes[i] = static_cast<Lane>((i & kRun) != 0 ? -1 : 0);
    }
  };
  static constexpr Table kTable;
  return hn::Load(d, kTable.lanes);
}

/// The same as a mask.
template <std::size_t kRun, class D>
HWY_INLINE auto upper_mask(D d) {
#if HWY_TARGET <= HWY_AVX3
  std::uint64_t bits = 0;  // a constant to the compiler
  for (std::size_t i = 0; i < hn::MaxLanes(d); ++i) bits |= static_cast<std::uint64_t>((i & kRun) != 0) << i;
  return hn::LoadMaskBits(d, reinterpret_cast<const std::uint8_t*>(&bits));
#else
  const hn::RebindToSigned<D> ints;
  return hn::RebindMask(d, hn::MaskFromVec(upper_runs<kRun>(ints)));
#endif
}

/// a + b in the lower, a - b in the upper of two neighbouring runs of kRun integers.
template <std::size_t kRun, class V>
HWY_INLINE V integer_butterfly(V v) {
  const hn::DFromV<V> d;
  const V swapped = swap_neighbours<kRun * sizeof(hn::TFromV<V>)>(v);
#if HWY_TARGET <= HWY_AVX3
  return hn::IfThenElse(upper_mask<kRun>(d), hn::Sub(swapped, v), hn::Add(swapped, v));
#else
  const V minus = upper_runs<kRun>(d);
  return hn::Add(swapped, hn::Sub(hn::Xor(v, minus), minus));
#endif
}

/// The same for floats: each sum is one rounded operation.
template <std::size_t kRun, class V>
HWY_INLINE V float_butterfly(V v) {
  const hn::DFromV<V> d;
  const V swapped = swap_neighbours<kRun * sizeof(float)>(v);
  return hn::IfThenElse(upper_mask<kRun>(d), hn::Sub(swapped, v), hn::Add(v, swapped));
}

/// Sign bits of the even (kOdd false) or odd lanes.
template <bool kOdd, class D>
HWY_INLINE hn::VFromD<D> alternate_signs(D d) {
  const hn::RebindToUnsigned<D> words;
  const auto sign = hn::Set(words, 0x80000000u);
  const auto zero = hn::Zero(words);
  return hn::BitCast(d, kOdd ? hn::OddEven(sign, zero) : hn::OddEven(zero, sign));
}

/// a x b - c in the even lanes, a x b + c in the odd ones, each rounded once.
template <class D>
HWY_INLINE hn::VFromD<D> multiply_alternate(D d, hn::VFromD<D> a, hn::VFromD<D> b, hn::VFromD<D> c) {
#if HWY_TARGET <= HWY_AVX3
  if constexpr (hn::MaxLanes(D()) == 16) return hn::VFromD<D>{_mm512_fmaddsub_ps(a.raw, b.raw, c.raw)};
#endif
#if HWY_TARGET <= HWY_AVX2
  if constexpr (hn::MaxLanes(D()) == 8) return hn::VFromD<D>{_mm256_fmaddsub_ps(a.raw, b.raw, c.raw)};
#endif
  return hn::MulAdd(a, b, hn::Xor(c, alternate_signs<false>(d)));
}

/// f16 to f32; NaNs keep their bits, which the hardware would quieten.   source: f32_from_f16
template <class D>
HWY_INLINE hn::VFromD<D> widen_f16(D d, const std::byte* at) {
  const Shorts<D> shorts;
  const auto bits = hn::LoadU(shorts, reinterpret_cast<const std::uint16_t*>(at));
  const auto value = hn::PromoteTo(d, hn::BitCast(Halves<D>(), bits));
  if (HWY_LIKELY(hn::AllFalse(d, hn::IsNaN(value)))) return value;
  const Words<D> words;
  const auto word = hn::PromoteTo(words, bits);
  const auto sign = hn::ShiftLeft<16>(hn::And(word, hn::Set(words, 0x8000u)));
  const auto payload = hn::ShiftLeft<13>(hn::And(word, hn::Set(words, 0x3FFu)));
  const auto kept = hn::Or(hn::Or(sign, payload), hn::Set(words, 0x7F800000u));
  return hn::IfThenElse(hn::IsNaN(value), hn::BitCast(d, kept), value);
}

/// L values as f32.
template <DType kType, class D>
HWY_INLINE hn::VFromD<D> load_floats(D d, const std::byte* at) {
  if constexpr (kType == DType::kF32) {
    return hn::LoadU(d, reinterpret_cast<const float*>(at));
  } else if constexpr (kType == DType::kF16) {
    return widen_f16(d, at);
  } else {
    const Words<D> words;
    const auto bits = hn::LoadU(Shorts<D>(), reinterpret_cast<const std::uint16_t*>(at));
    return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(words, bits)));
  }
}

/// source: bf16_from_f32; a NaN comes out of arithmetic here and is quiet already
template <class D>
HWY_INLINE hn::VFromD<Shorts<D>> narrow_bf16(D d, hn::VFromD<D> v) {
  const Words<D> words;
  const auto bits = hn::BitCast(words, v);
  const auto high = hn::ShiftRight<16>(bits);
  const auto odd = hn::And(high, hn::Set(words, 1u));
  const auto rounded = hn::ShiftRight<16>(hn::Add(bits, hn::Add(odd, hn::Set(words, 0x7FFFu))));
  const auto is_nan = hn::RebindMask(words, hn::IsNaN(v));
  (void)d;
  return hn::TruncateTo(Shorts<D>(), hn::IfThenElse(is_nan, high, rounded));
}

template <DType kType, class D>
HWY_INLINE hn::VFromD<Shorts<D>> narrow(D d, hn::VFromD<D> v) {
  if constexpr (kType == DType::kF16) {
    return hn::BitCast(Shorts<D>(), hn::DemoteTo(Halves<D>(), v));
  } else {
    return narrow_bf16(d, v);
  }
}

/// Side by side, rounded to nearest even as f16_from_f32 and bf16_from_f32 do, NaNs included.
template <DType kType, class D>
HWY_INLINE void store_pair(D d, hn::VFromD<D> low, hn::VFromD<D> high, std::byte* at) {
  if constexpr (kType == DType::kF32) {
    float* out = reinterpret_cast<float*>(at);
    hn::StoreU(low, d, out);
    hn::StoreU(high, d, out + hn::MaxLanes(d));
  } else {
    const hn::Repartition<std::uint16_t, D> shorts;
    const auto both = hn::Combine(shorts, narrow<kType>(d, high), narrow<kType>(d, low));
    hn::StoreU(both, shorts, reinterpret_cast<std::uint16_t*>(at));
  }
}

template <DType kType, class D>
HWY_INLINE void store_one(D d, hn::VFromD<D> v, std::byte* at) {
  if constexpr (kType == DType::kF32) {
    hn::StoreU(v, d, reinterpret_cast<float*>(at));
  } else {
    hn::StoreU(narrow<kType>(d, v), Shorts<D>(), reinterpret_cast<std::uint16_t*>(at));
  }
}

template <DType kType>
inline constexpr std::size_t kBytesOf = kType == DType::kF32 ? 4 : 2;

/// Decoded rows go where no cache has them yet, a strip with a stride that no processor foresees: asked for so long before.
inline constexpr std::int64_t kBytesAhead = 48 << 10;
inline std::int64_t rows_ahead(std::size_t row_count, std::int64_t row_stride) {
  return row_count < 8 || row_stride <= 0 || row_stride > kBytesAhead ? 0 : kBytesAhead / row_stride;
}
/// The line of a byte that lies `ahead` bytes behind at; it need not exist.
HWY_INLINE void prefetch_to_write(const std::byte* at, std::int64_t ahead) {
  const auto there = reinterpret_cast<std::uintptr_t>(at) + static_cast<std::uintptr_t>(ahead);
  __builtin_prefetch(reinterpret_cast<const void*>(there), 1);
}

/// Whether no boundary of the shape falls inside a run of `channels`.
inline bool falls_on(const PlanesShape& shape, std::size_t channels) {
  std::size_t bits = shape.head_dim;
  for (const std::uint32_t width : shape.group_widths) bits |= width;
  if (shape.pairing != RopePairing::kNone) bits |= shape.rotated_offset | shape.rotated_width;
  return bits % channels == 0;
}

/// First source channel of a run that begins at card-order channel c, where runs are contiguous.
inline std::size_t source_run(const PlanesShape& shape, std::size_t c) {
  if (shape.pairing == RopePairing::kNone) return c;
  if (c < shape.rotated_width) return shape.rotated_offset + c;
  const std::size_t rest = c - shape.rotated_width;
  return rest < shape.rotated_offset ? rest : c;
}

/// Bits of the largest magnitude: ordered as the magnitudes are, NaN above infinity above the rest.
HWY_INLINE std::uint32_t largest_bits(const float* values, std::size_t count) {
  const hn::ScalableTag<std::int32_t> ints;
  const auto magnitude = hn::Set(ints, 0x7FFFFFFF);
  auto most = hn::Zero(ints);
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const auto bits = hn::BitCast(ints, hn::LoadU(Floats(), values + i));
    most = hn::Max(most, hn::And(bits, magnitude));
  }
  std::uint32_t largest = static_cast<std::uint32_t>(hn::GetLane(hn::MaxOfLanes(ints, most)));
  for (; i < count; ++i) {
    std::uint32_t bits;
    std::memcpy(&bits, values + i, sizeof(bits));
    largest = std::max(largest, bits & 0x7FFFFFFFu);
  }
  return largest;
}

#endif  // HWY_NATIVE_FMA
}  // namespace cachecard::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
