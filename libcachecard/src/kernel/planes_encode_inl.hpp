// Encoding of `planes` in vectors. Included once a target by planes_simd.cpp.
#if defined(CACHECARD_PLANES_ENCODE_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef CACHECARD_PLANES_ENCODE_INL
#undef CACHECARD_PLANES_ENCODE_INL
#else
#define CACHECARD_PLANES_ENCODE_INL
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernel/floats.hpp"
#include "kernel/planes.hpp"
#include "kernel/planes_vectors_inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace cachecard::kernel::HWY_NAMESPACE {
#if HWY_NATIVE_FMA

/// Channels that are quantised before their bits go into the planes.
inline constexpr std::size_t kCodedTile = 128;

template <class D>
HWY_INLINE hn::VFromD<D> unrotated(D d, hn::VFromD<D> v, const float* angles, hn::VFromD<D> gain) {
  const auto angle = hn::LoadU(d, angles);
  const auto other = hn::Mul(swap_neighbours<sizeof(float)>(v), hn::DupOdd(angle));
  return hn::Mul(gain, hn::MulAdd(v, hn::DupEven(angle), hn::Xor(other, alternate_signs<true>(d))));
}

/// L pairs of half-split channels, interleaved into out.
template <DType kType, class D>
HWY_INLINE void take_split_run(D d, const PlanesInput& input, const std::byte* first, const std::byte* second,
                               const float* angles, float* out) {
  auto x = load_floats<kType>(d, first);
  auto y = load_floats<kType>(d, second);
  if (angles != nullptr) {
    hn::VFromD<D> cosine;
    hn::VFromD<D> sine;
    hn::LoadInterleaved2(d, angles, cosine, sine);
    const auto gain = hn::Set(d, input.unrotate_gain);
    const auto plain_x = hn::Mul(gain, hn::MulAdd(x, cosine, hn::Mul(y, sine)));
    y = hn::Mul(gain, hn::MulSub(y, cosine, hn::Mul(x, sine)));
    x = plain_x;
  }
  hn::StoreInterleaved2(x, y, d, out);
}

/// One head into card order, RoPE off.   Needs: falls_on(shape, 2 x lanes of D)
template <DType kType, class D>
HWY_INLINE void take_head(D d, const PlanesShape& shape, const PlanesInput& input, const std::byte* head, float* out) {
  constexpr std::size_t kRun = hn::MaxLanes(D());
  constexpr std::size_t kSize = kBytesOf<kType>;
  const auto gain = hn::Set(d, input.unrotate_gain);
  for (std::size_t c = 0; c < shape.head_dim; c += 2 * kRun) {
    const bool is_rotated = shape.pairing != RopePairing::kNone && c < shape.rotated_width;
    const float* angles = is_rotated && input.angles != nullptr ? input.angles + c : nullptr;
    if (is_rotated && shape.pairing == RopePairing::kHalfSplit) {
      const std::byte* first = head + (shape.rotated_offset + c / 2) * kSize;
      take_split_run<kType>(d, input, first, first + shape.rotated_width / 2 * kSize, angles, out + c);
      continue;
    }
    const std::byte* at = head + source_run(shape, c) * kSize;
    auto low = load_floats<kType>(d, at);
    auto high = load_floats<kType>(d, at + kRun * kSize);
    if (angles != nullptr) {
      low = unrotated(d, low, angles, gain);
      high = unrotated(d, high, angles + kRun, gain);
    }
    hn::StoreU(low, d, out + c);
    hn::StoreU(high, d, out + c + kRun);
  }
}

HWY_INLINE void subtract(const float* mean, std::size_t count, float* values) {
  const Floats d;
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    hn::StoreU(hn::Sub(hn::LoadU(d, values + i), hn::LoadU(d, mean + i)), d, values + i);
  }
  for (; i < count; ++i) values[i] -= mean[i];
}

template <DType kType, class D>
void take_row(D d, const PlanesShape& shape, const PlanesInput& input, float* out) {
  for (std::size_t head = 0; head < shape.head_count; ++head) {
    const std::size_t first = head * shape.head_dim;
    take_head<kType>(d, shape, input, input.row + first * kBytesOf<kType>, out + first);
  }
  if (input.mean != nullptr) subtract(input.mean, shape.elements(), out);
}

template <class D>
void take_with(D d, const PlanesShape& shape, const PlanesInput& input, float* out) {
  switch (input.dtype) {
    case DType::kF16: return take_row<DType::kF16>(d, shape, input, out);
    case DType::kBf16: return take_row<DType::kBf16>(d, shape, input, out);
    default: return take_row<DType::kF32>(d, shape, input, out);
  }
}

void to_card_order(const PlanesShape& shape, const PlanesInput& input, float* out) {
  if (falls_on(shape, 2 * kLanes)) return take_with(Floats(), shape, input, out);
  if (kLanes > 8 && falls_on(shape, 16)) return take_with(hn::CappedTag<float, 8>(), shape, input, out);
  if (kLanes > 4 && falls_on(shape, 8)) return take_with(hn::CappedTag<float, 4>(), shape, input, out);
  planes_scalar().to_card_order(shape, input, out);
}

/// kernel::hadamard in vectors.
void transform(float* values, std::size_t count, std::size_t n) {
  const Floats d;
  const auto scale = hn::Set(d, 1.0f / std::sqrt(static_cast<float>(n)));
  const std::size_t whole = count / kLanes * kLanes;
  for (std::size_t i = 0; i < whole; i += kLanes) {
    auto v = hn::Mul(hn::LoadU(d, values + i), scale);
    if (n > 1) v = float_butterfly<1>(v);
    if (n > 2) v = float_butterfly<2>(v);
    if constexpr (kLanes >= 8) {
      if (n > 4) v = float_butterfly<4>(v);
    }
    if constexpr (kLanes >= 16) {
      if (n > 8) v = float_butterfly<8>(v);
    }
    hn::StoreU(v, d, values + i);
  }
  if (whole < count) hadamard(std::span(values + whole, count - whole), n);  // n divides what is left: it is below kLanes
  for (std::size_t stride = kLanes; stride < n; stride *= 2) {
    for (std::size_t start = 0; start < count; start += 2 * stride) {
      for (std::size_t i = start; i < start + stride; i += kLanes) {
        const auto a = hn::LoadU(d, values + i);
        const auto b = hn::LoadU(d, values + i + stride);
        hn::StoreU(hn::Add(a, b), d, values + i);
        hn::StoreU(hn::Sub(a, b), d, values + i + stride);
      }
    }
  }
}

RowOutcome find_ranges(const PlanesShape& shape, const float* values, std::int16_t* ranges) {
  static_assert(kLeastRange == -1600 && kMostRange == 1600);
  constexpr float kLeast = 0x1p-100f;
  constexpr float kMost = 0x1p100f;
  for (std::uint32_t head = 0; head < shape.head_count; ++head) {
    for (const std::uint32_t width : shape.group_widths) {
      const std::uint32_t bits = largest_bits(values, width);
      values += width;
      if (bits >= 0x7F800000u) return RowOutcome::kNonFinite;
      float largest;
      std::memcpy(&largest, &bits, sizeof(largest));
      if (bits == 0) {
        *ranges++ = kZeroRange;
        continue;
      }
      if (largest < kLeast || largest > kMost) return RowOutcome::kOutOfReach;
      *ranges++ = static_cast<std::int16_t>(planes_range_for(largest));
    }
  }
  return RowOutcome::kCoded;
}

/// values as numbers of `width` bits: clamp(floor(v x inverse + half)).
HWY_INLINE void quantise(const float* values, std::size_t count, float inverse, std::uint32_t width, std::uint8_t* out) {
  const Floats d;
  const hn::RebindToSigned<Floats> ints;
  const hn::Rebind<std::uint8_t, Floats> bytes;
  const auto factor = hn::Set(d, inverse);
  const auto half = static_cast<float>(1u << (width - 1));
  const auto most = static_cast<std::int32_t>((1u << width) - 1);
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    // What is cut off towards zero is floored: below zero nothing reaches -1.
    const auto q = hn::ConvertTo(ints, hn::MulAdd(hn::LoadU(d, values + i), factor, hn::Set(d, half)));
    hn::StoreU(hn::DemoteTo(bytes, hn::Min(q, hn::Set(ints, most))), bytes, out + i);
  }
  for (; i < count; ++i) {
    const float q = std::floor(std::fma(values[i], inverse, half));
    out[i] = static_cast<std::uint8_t>(std::clamp(q, 0.0f, static_cast<float>(most)));
  }
}

/// Spreads count numbers over the planes, from channel `first` on, a multiple of kCodedTile.   Needs: zeros up to kCodedTile
HWY_INLINE void put_planes(const std::uint8_t* tile, std::size_t first, std::size_t count, std::uint32_t width,
                           std::span<std::byte* const> planes) {
  const hn::ScalableTag<std::uint8_t> bytes;
  for (std::size_t i = 0; i < count; i += kSpan) {
    const auto q = hn::Load(bytes, tile + i);
    const std::size_t size = std::min((count - i + 7) / 8, kSpan / 8);
    for (std::uint32_t p = 0; p < width; ++p) {
      const auto bit = hn::Set(bytes, static_cast<std::uint8_t>(1u << (width - 1 - p)));
      std::uint8_t bits[8];
      hn::StoreMaskBits(bytes, hn::TestBit(q, bit), bits);
      std::byte* at = planes[p] + (first + i) / 8;
      if (size == kSpan / 8) {
        std::memcpy(at, bits, kSpan / 8);
      } else {
        std::memcpy(at, bits, size);
      }
    }
  }
}

/// Quantises the transformed row and writes it into the planes.
void put_row(const PlanesShape& shape, const float* values, std::uint32_t width, const std::int16_t* ranges,
             std::span<std::byte* const> planes) {
  HWY_ALIGN std::uint8_t tile[kCodedTile];
  const auto half = static_cast<float>(1u << (width - 1));
  const std::size_t elements = shape.elements();
  std::size_t group = 0;
  std::size_t left = 0;  // channels of the unit that are still to come
  float inverse = 0.0f;
  for (std::size_t first = 0; first < elements; first += kCodedTile) {
    const std::size_t count = std::min(kCodedTile, elements - first);
    if (count < kCodedTile) std::memset(tile, 0, sizeof(tile));
    for (std::size_t i = 0; i < count;) {
      if (left == 0) {
        left = shape.group_widths[group];
        group = group + 1 == shape.group_widths.size() ? 0 : group + 1;
        inverse = *ranges == kZeroRange ? 0.0f : half / planes_range(*ranges);
        ++ranges;
      }
      const std::size_t run = std::min(left, count - i);
      quantise(values + first + i, run, inverse, width, tile + i);
      i += run;
      left -= run;
    }
    put_planes(tile, first, count, width, planes);
  }
}

RowOutcome encode_row(const PlanesShape& shape, const PlanesInput& input, std::uint32_t width,
                      std::span<std::byte* const> planes, std::int16_t* ranges, float* scratch) {
  to_card_order(shape, input, scratch);
  if (shape.hadamard_size > 1) transform(scratch, shape.elements(), shape.hadamard_size);
  const RowOutcome outcome = find_ranges(shape, scratch, ranges);
  if (outcome == RowOutcome::kCoded) put_row(shape, scratch, width, ranges, planes);
  return outcome;
}

#endif  // HWY_NATIVE_FMA
}  // namespace cachecard::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
