// Decoding of `planes` in vectors. Included once a target by planes_simd.cpp.
#if defined(CACHECARD_PLANES_DECODE_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef CACHECARD_PLANES_DECODE_INL
#undef CACHECARD_PLANES_DECODE_INL
#else
#define CACHECARD_PLANES_DECODE_INL
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cstring>

#include "kernel/planes.hpp"
#include "kernel/planes_vectors_inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace cachecard::kernel::HWY_NAMESPACE {
#if HWY_NATIVE_FMA

/// A vector of each bit's value. From memory: AVX-512 then masks it in the load.
struct Bits {
  alignas(64) std::uint8_t of[8][64];
  constexpr Bits() : of() {
    for (unsigned bit = 0; bit < 8; ++bit)
      for (std::uint8_t& value : of[bit]) value = static_cast<std::uint8_t>(1u << bit);
  }
};
inline constexpr Bits kBits;

/// Channels that are held as integers at a time.
inline constexpr std::size_t kTile = 1024;
alignas(64) inline constexpr float kNoMean[kTile] = {};

/// kSpan channels from bit `first` of each plane, as numbers of kWidth bits.   Needs: kSpan / 8 bytes readable there.
template <std::uint32_t kWidth>
HWY_INLINE hn::VFromD<hn::ScalableTag<std::uint8_t>> unpack_bytes(const std::uint8_t* const* planes, std::size_t at) {
  const hn::ScalableTag<std::uint8_t> bytes;
  auto q = hn::Zero(bytes);
  for (std::uint32_t p = 0; p < kWidth; ++p) {
    const auto set = hn::LoadMaskBits(bytes, planes[p] + at);  // reads kSpan / 8 bytes on every target built here
    q = hn::Or(q, hn::IfThenElseZero(set, hn::Load(bytes, kBits.of[kWidth - 1 - p])));
  }
  return q;
}

/// Hadamard steps of runs from kFirst on inside a vector.
template <std::uint32_t kFirst, class V>
HWY_INLINE V short_butterflies(V v, std::uint32_t n) {
  if (kFirst <= 1 && n > 1) v = integer_butterfly<1>(v);
  if (kFirst <= 2 && n > 2) v = integer_butterfly<2>(v);
  if (kFirst <= 4 && n > 4) v = integer_butterfly<4>(v);
  if constexpr (kLanes >= 8) {
    if (n > 8) v = integer_butterfly<8>(v);
  }
  if constexpr (kLanes >= 16) {
    if (n > 16) v = integer_butterfly<16>(v);
  }
  return v;
}

/// kSpan channels as 2q + 1 - 2^kWidth, after the Hadamard steps that stay inside the span.
template <std::uint32_t kWidth>
HWY_INLINE void unpack_span(const std::uint8_t* const* planes, std::size_t at, std::uint32_t n, std::int16_t* out) {
  const hn::ScalableTag<std::uint8_t> bytes;
  const hn::RebindToSigned<decltype(bytes)> small;
  const hn::ScalableTag<std::int16_t> shorts;
  const auto q = unpack_bytes<kWidth>(planes, at);
  auto low = hn::Zero(shorts);
  auto high = low;
  if constexpr (kWidth <= 4) {  // 8 x 15 fits a byte: the first three steps on twice the lanes
    auto a = hn::Add(hn::BitCast(small, hn::Add(q, q)), hn::Set(small, static_cast<std::int8_t>(1 - (1 << kWidth))));
    if (n > 1) a = integer_butterfly<1>(a);
    if (n > 2) a = integer_butterfly<2>(a);
    if (n > 4) a = integer_butterfly<4>(a);
    const hn::Half<decltype(small)> half;
    low = short_butterflies<8>(hn::PromoteTo(shorts, hn::LowerHalf(half, a)), n);
    high = short_butterflies<8>(hn::PromoteTo(shorts, hn::UpperHalf(half, a)), n);
  } else {
    const hn::Half<decltype(bytes)> half;
    const auto offset = hn::Set(shorts, static_cast<std::int16_t>(1 - (1 << kWidth)));
    const auto first = hn::PromoteTo(shorts, hn::LowerHalf(half, q));
    const auto second = hn::PromoteTo(shorts, hn::UpperHalf(half, q));
    low = short_butterflies<1>(hn::Add(hn::Add(first, first), offset), n);
    high = short_butterflies<1>(hn::Add(hn::Add(second, second), offset), n);
  }
  if (n > kSpan / 2) {
    hn::Store(hn::Add(low, high), shorts, out);
    hn::Store(hn::Sub(low, high), shorts, out + kSpan / 2);
  } else {
    hn::Store(low, shorts, out);
    hn::Store(high, shorts, out + kSpan / 2);
  }
}

/// Hadamard steps across spans.
HWY_INLINE void span_butterflies(std::int16_t* tile, std::size_t count, std::size_t n) {
  const hn::ScalableTag<std::int16_t> shorts;
  for (std::size_t stride = kSpan; stride < n; stride *= 2) {
    for (std::size_t start = 0; start < count; start += 2 * stride) {
      for (std::size_t i = start; i < start + stride; i += kSpan / 2) {
        const auto a = hn::Load(shorts, tile + i);
        const auto b = hn::Load(shorts, tile + i + stride);
        hn::Store(hn::Add(a, b), shorts, tile + i);
        hn::Store(hn::Sub(a, b), shorts, tile + i + stride);
      }
    }
  }
}

/// count channels from bit `first` of the planes, a multiple of kTile.   kWhole: n is kSpan or more
template <std::uint32_t kWidth, bool kWhole>
HWY_NOINLINE void unpack_tile(const PlanesRow& row, std::size_t first, std::size_t count, std::uint32_t n,
                              std::int16_t* tile) {
  const std::uint8_t* planes[kWidth];
  for (std::uint32_t p = 0; p < kWidth; ++p) {
    planes[p] = reinterpret_cast<const std::uint8_t*>(row.planes[p]) + first / 8;
  }
  const std::uint32_t inner = kWhole ? static_cast<std::uint32_t>(kSpan) : n;
  std::size_t i = 0;
  for (; i + kSpan <= count; i += kSpan) unpack_span<kWidth>(planes, i / 8, inner, tile + i);
  if (i < count) {
    std::uint8_t padded[kWidth][kSpan / 8] = {};
    for (std::uint32_t p = 0; p < kWidth; ++p) {
      std::memcpy(padded[p], planes[p] + i / 8, (count - i + 7) / 8);
      planes[p] = padded[p];
    }
    unpack_span<kWidth>(planes, 0, inner, tile + i);
  }
  if (n > kSpan) span_butterflies(tile, count, n);
}

using UnpackTile = void (*)(const PlanesRow&, std::size_t, std::size_t, std::uint32_t, std::int16_t*);
template <bool kWhole>
inline constexpr UnpackTile kUnpackTile[kMostPlanes] = {
    unpack_tile<1, kWhole>, unpack_tile<2, kWhole>, unpack_tile<3, kWhole>, unpack_tile<4, kWhole>,
    unpack_tile<5, kWhole>, unpack_tile<6, kWhole>, unpack_tile<7, kWhole>, unpack_tile<8, kWhole>};

template <class D>
HWY_INLINE hn::VFromD<D> scaled(D d, const std::int16_t* h, hn::VFromD<D> step, const float* mean) {
  const hn::Rebind<std::int16_t, D> shorts;
  const hn::Rebind<std::int32_t, D> ints;
  return hn::MulAdd(hn::ConvertTo(d, hn::PromoteTo(ints, hn::LoadU(shorts, h))), step, hn::LoadU(d, mean));
}

template <class D>
HWY_INLINE hn::VFromD<D> rotated(D d, hn::VFromD<D> v, const float* angles) {
  const auto angle = hn::LoadU(d, angles);
  const auto other = hn::Mul(hn::Reverse2(d, v), hn::DupOdd(angle));
  return multiply_alternate(d, v, hn::DupEven(angle), other);
}

/// Channels of one group that are all rotated or all not.
struct Segment {
  const std::int16_t* sums;
  std::size_t count;
  float step;
  const float* mean;    ///< never null
  const float* angles;  ///< null: not rotated
  std::byte* out;       ///< of the first channel; for half-split: of its pair's x
  std::size_t split;    ///< bytes from x to y
};

template <DType kType, class D>
HWY_INLINE void put_plain(D d, const Segment& s) {
  constexpr std::size_t kRun = hn::MaxLanes(D());
  const auto step = hn::Set(d, s.step);
  for (std::size_t i = 0; i < s.count; i += 2 * kRun) {
    const auto low = scaled(d, s.sums + i, step, s.mean + i);
    const auto high = scaled(d, s.sums + i + kRun, step, s.mean + i + kRun);
    store_pair<kType>(d, low, high, s.out + i * kBytesOf<kType>);
  }
}

template <DType kType, class D>
HWY_INLINE void put_interleaved(D d, const Segment& s) {
  constexpr std::size_t kRun = hn::MaxLanes(D());
  const auto step = hn::Set(d, s.step);
  for (std::size_t i = 0; i < s.count; i += 2 * kRun) {
    const auto low = scaled(d, s.sums + i, step, s.mean + i);
    const auto high = scaled(d, s.sums + i + kRun, step, s.mean + i + kRun);
    store_pair<kType>(d, rotated(d, low, s.angles + i), rotated(d, high, s.angles + i + kRun),
                      s.out + i * kBytesOf<kType>);
  }
}

template <DType kType, class D>
HWY_INLINE void put_split(D d, const Segment& s) {
  constexpr std::size_t kRun = hn::MaxLanes(D());
  const auto step = hn::Set(d, s.step);
  for (std::size_t i = 0; i < s.count; i += 2 * kRun) {
    const auto low = scaled(d, s.sums + i, step, s.mean + i);
    const auto high = scaled(d, s.sums + i + kRun, step, s.mean + i + kRun);
    auto x = hn::ConcatEven(d, high, low);
    auto y = hn::ConcatOdd(d, high, low);
    if (s.angles != nullptr) {
      const auto first = hn::LoadU(d, s.angles + i);
      const auto second = hn::LoadU(d, s.angles + i + kRun);
      const auto cosine = hn::ConcatEven(d, second, first);
      const auto sine = hn::ConcatOdd(d, second, first);
      const auto rotated_x = hn::MulSub(x, cosine, hn::Mul(y, sine));
      y = hn::MulAdd(y, cosine, hn::Mul(x, sine));
      x = rotated_x;
    }
    std::byte* at = s.out + i / 2 * kBytesOf<kType>;
    store_one<kType>(d, x, at);
    store_one<kType>(d, y, at + s.split);
  }
}

/// Where decoding has got to: a place in the rows, whose values follow one another without gaps.
struct DecodeCursor {
  std::byte* row = nullptr;   ///< the row's first byte in the target
  std::byte* head = nullptr;  ///< the head's
  const float* step = nullptr;
  const float* angles = nullptr;
  std::size_t head_index = 0;
  std::size_t channel = 0;  ///< of the head, in card order
  std::size_t group = 0;
  std::size_t group_end = 0;
};

/// The channels from the cursor on that are in one group, one kind and the tile.
template <DType kType>
HWY_INLINE Segment next_segment(const PlanesShape& shape, const float* mean, const DecodeCursor& at,
                                const std::int16_t* sums, std::size_t left) {
  const bool is_rotated = at.channel < shape.rotated_width && shape.pairing != RopePairing::kNone;
  std::size_t end = at.group_end;
  if (is_rotated) end = std::min<std::size_t>(end, shape.rotated_width);
  // Behind the rotated channels come those that the source has before them.
  const std::size_t before = std::size_t{shape.rotated_width} + shape.rotated_offset;
  if (!is_rotated && shape.pairing != RopePairing::kNone && at.channel < before) end = std::min(end, before);
  std::size_t source = source_run(shape, at.channel);
  if (is_rotated && shape.pairing == RopePairing::kHalfSplit) source = shape.rotated_offset + at.channel / 2;
  return {.sums = sums,
          .count = std::min(end - at.channel, left),
          .step = *at.step,
          .mean = mean == nullptr ? kNoMean : mean + at.head_index * shape.head_dim + at.channel,
          .angles = is_rotated && at.angles != nullptr ? at.angles + at.channel : nullptr,
          .out = at.head + source * kBytesOf<kType>,
          .split = shape.rotated_width / 2 * kBytesOf<kType>};
}

HWY_INLINE void advance(const PlanesShape& shape, std::int64_t head_stride, std::int64_t row_stride, std::size_t count,
                        DecodeCursor& at) {
  at.channel += count;
  if (at.channel < at.group_end) return;
  ++at.step;
  if (++at.group == shape.group_widths.size()) {
    at.channel = at.group = at.group_end = 0;
    at.head += head_stride;
    if (++at.head_index == shape.head_count) {
      at.head_index = 0;
      at.row += row_stride;
      at.head = at.row;
      if (at.angles != nullptr) at.angles += shape.rotated_width;
    }
  }
  at.group_end += shape.group_widths[at.group];
}

/// Needs: falls_on(shape, 2 x lanes of D)
template <DType kType, class D>
HWY_NOINLINE void decode_runs(D d, const PlanesShape& all_of_shape, const PlanesRow& row, std::size_t row_count,
                              const RowTarget& target, std::int64_t row_stride) {
  HWY_ALIGN std::int16_t tile[kTile];
  const PlanesShape shape = all_of_shape;  // a copy that no store into the target can change: stays in registers
  const std::int64_t head_stride = target.head_stride;
  const float* mean = row.mean;
  const std::uint32_t n = shape.hadamard_size;
  const UnpackTile unpack = (n >= kSpan ? kUnpackTile<true> : kUnpackTile<false>)[row.width - 1];
  const std::size_t elements = row_count * shape.elements();
  const bool is_split = shape.pairing == RopePairing::kHalfSplit;
  DecodeCursor at{.row = target.base,
                  .head = target.base,
                  .step = row.steps,
                  .angles = row.angles,
                  .group_end = shape.group_widths[0]};
  for (std::size_t first = 0; first < elements; first += kTile) {
    const std::size_t count = std::min(kTile, elements - first);
    unpack(row, first, count, n, tile);
    for (std::size_t i = 0; i < count;) {
      const Segment segment = next_segment<kType>(shape, mean, at, tile + i, count - i);
      if (is_split && at.channel < shape.rotated_width) {
        put_split<kType>(d, segment);
      } else if (segment.angles != nullptr) {
        put_interleaved<kType>(d, segment);
      } else {
        put_plain<kType>(d, segment);
      }
      i += segment.count;
      advance(shape, head_stride, row_stride, segment.count, at);
    }
  }
}

template <class D>
void decode_with(D d, const PlanesShape& shape, const PlanesRow& row, std::size_t row_count, const RowTarget& target,
                 std::int64_t row_stride) {
  switch (target.dtype) {
    case DType::kF16: return decode_runs<DType::kF16>(d, shape, row, row_count, target, row_stride);
    case DType::kBf16: return decode_runs<DType::kBf16>(d, shape, row, row_count, target, row_stride);
    default: return decode_runs<DType::kF32>(d, shape, row, row_count, target, row_stride);
  }
}

void decode_rows(const PlanesShape& shape, const PlanesRow& row, std::size_t row_count, const RowTarget& target,
                 std::int64_t row_stride, float* scratch) {
  if (falls_on(shape, 2 * kLanes)) {
    return decode_with(Floats(), shape, row, row_count, target, row_stride);
  }
  if (kLanes > 8 && falls_on(shape, 16)) {
    return decode_with(hn::CappedTag<float, 8>(), shape, row, row_count, target, row_stride);
  }
  if (kLanes > 4 && falls_on(shape, 8)) {
    return decode_with(hn::CappedTag<float, 4>(), shape, row, row_count, target, row_stride);
  }
  planes_scalar().decode_rows(shape, row, row_count, target, row_stride, scratch);
}

void decode_row(const PlanesShape& shape, const PlanesRow& row, const RowTarget& target, float* scratch) {
  decode_rows(shape, row, 1, target, 0, scratch);
}

#endif  // HWY_NATIVE_FMA
}  // namespace cachecard::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
