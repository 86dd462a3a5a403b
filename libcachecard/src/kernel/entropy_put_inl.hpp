// Values from rows of `entropy` in vectors. Included once a target by entropy_simd.cpp.
#if defined(CACHECARD_ENTROPY_PUT_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef CACHECARD_ENTROPY_PUT_INL
#undef CACHECARD_ENTROPY_PUT_INL
#else
#define CACHECARD_ENTROPY_PUT_INL
#endif

#include <hwy/highway.h>

#include "kernel/entropy.hpp"
#include "kernel/planes_vectors_inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace cachecard::kernel::HWY_NAMESPACE {
#if HWY_NATIVE_FMA

/// Scales and means of a strip, side by side and split into even and odd channels.
struct LaneFloats {
  alignas(64) float scale[kStripChannels];
  alignas(64) float mean[kStripChannels];
  alignas(64) float half_scale[2][kStripPairs];
  alignas(64) float half_mean[2][kStripPairs];
};

inline void fill_floats(const StripOutput& strip, LaneFloats& floats) {
  for (const StripRun& run : strip.runs) {
    for (std::uint32_t c = run.first; c < run.first + run.count; ++c) {
      floats.scale[c] = floats.half_scale[c % 2][c / 2] = strip.scale[c];
      floats.mean[c] = floats.half_mean[c % 2][c / 2] = strip.mean == nullptr ? 0.0f : strip.mean[c];
    }
  }
}

/// Channels side by side in the source: plain ones, and interleaved pairs.
template <DType kType, bool kRotated>
HWY_INLINE void put_side_by_side(const LaneFloats& floats, const StripRun& run, const std::int16_t* row,
                                 const float* angles, std::byte* out) {
  const Floats d;
  const hn::Rebind<std::int16_t, Floats> shorts;
  const hn::Rebind<std::int32_t, Floats> ints;
  const auto value = [&](std::size_t i) {
    const std::size_t c = run.first + i;
    const auto whole = hn::ConvertTo(d, hn::PromoteTo(ints, hn::LoadU(shorts, row + c)));
    const auto v = hn::MulAdd(whole, hn::LoadU(d, floats.scale + c), hn::LoadU(d, floats.mean + c));
    if constexpr (!kRotated) {
      return v;
    } else {
      const auto angle = hn::LoadU(d, angles + i);
      const auto other = hn::Mul(hn::Reverse2(d, v), hn::DupOdd(angle));
      return multiply_alternate(d, v, hn::DupEven(angle), other);
    }
  };
  for (std::size_t i = 0; i < run.count; i += 2 * kLanes) {
    store_pair<kType>(d, value(i), value(i + kLanes), out + i * kBytesOf<kType>);
  }
}

/// Pairs whose halves lie apart in the source.
template <DType kType>
HWY_INLINE void put_halves(const LaneFloats& floats, const StripRun& run, const std::int16_t* row, const float* angles,
                           std::byte* out) {
  const Floats d;
  const hn::Rebind<std::int32_t, Floats> ints;
  for (std::size_t i = 0; i < run.count / 2; i += kLanes) {
    const std::size_t pair = run.first / 2 + i;
    const auto both = hn::LoadU(ints, reinterpret_cast<const std::int32_t*>(row + run.first) + i);
    const auto low = hn::ConvertTo(d, hn::ShiftRight<16>(hn::ShiftLeft<16>(both)));
    const auto high = hn::ConvertTo(d, hn::ShiftRight<16>(both));
    const auto x = hn::MulAdd(low, hn::LoadU(d, floats.half_scale[0] + pair), hn::LoadU(d, floats.half_mean[0] + pair));
    const auto y = hn::MulAdd(high, hn::LoadU(d, floats.half_scale[1] + pair), hn::LoadU(d, floats.half_mean[1] + pair));
    const auto first = hn::LoadU(d, angles + 2 * i);
    const auto second = hn::LoadU(d, angles + 2 * i + kLanes);
    const auto cosine = hn::ConcatEven(d, second, first);
    const auto sine = hn::ConcatOdd(d, second, first);
    std::byte* at = out + i * kBytesOf<kType>;
    store_one<kType>(d, hn::MulSub(x, cosine, hn::Mul(y, sine)), at);
    store_one<kType>(d, hn::MulAdd(y, cosine, hn::Mul(x, sine)), at + run.split * kBytesOf<kType>);
  }
}

template <DType kType>
HWY_NOINLINE void put_tokens(const StripOutput& strip, std::size_t token_count, std::byte* base,
                             std::int64_t row_stride) {
  LaneFloats floats;
  fill_floats(strip, floats);
  const std::ptrdiff_t distance = rows_ahead(token_count, row_stride) * row_stride;
  for (const StripRun& run : strip.runs) {
    std::byte* out = base + run.source * kBytesOf<kType>;
    const std::int16_t* row = strip.rows;
    const float* angles = run.rotated ? strip.angles + 2 * run.pair : nullptr;
    const std::size_t size = run.count * kBytesOf<kType>;
    for (std::size_t t = 0; t < token_count; ++t) {
      if (distance > 0) {
        for (std::size_t i = 0; i < size; i += 64) prefetch_to_write(out + i, distance);
      }
      if (!run.rotated) {
        put_side_by_side<kType, false>(floats, run, row, angles, out);
      } else if (run.split == 0) {
        put_side_by_side<kType, true>(floats, run, row, angles, out);
      } else {
        put_halves<kType>(floats, run, row, angles, out);
      }
      row += kStripChannels;
      out += row_stride;
      if (run.rotated) angles += strip.angle_stride;
    }
  }
}

void put_strip(const StripOutput& strip, std::size_t token_count, std::byte* base, std::int64_t row_stride, DType dtype) {
  for (const StripRun& run : strip.runs) {
    if ((run.first | run.count) % (2 * kLanes) == 0) continue;
    return entropy_scalar().put_strip(strip, token_count, base, row_stride, dtype);
  }
  switch (dtype) {
    case DType::kF16: return put_tokens<DType::kF16>(strip, token_count, base, row_stride);
    case DType::kBf16: return put_tokens<DType::kBf16>(strip, token_count, base, row_stride);
    default: return put_tokens<DType::kF32>(strip, token_count, base, row_stride);
  }
}

#endif  // HWY_NATIVE_FMA
}  // namespace cachecard::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
