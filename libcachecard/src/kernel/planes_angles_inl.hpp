// RoPE angles of `planes` in vectors of f64. Included once a target by planes_simd.cpp.
#if defined(CACHECARD_PLANES_ANGLES_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef CACHECARD_PLANES_ANGLES_INL
#undef CACHECARD_PLANES_ANGLES_INL
#else
#define CACHECARD_PLANES_ANGLES_INL
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cstring>

#include "kernel/planes.hpp"
#include "kernel/planes_tables.hpp"

HWY_BEFORE_NAMESPACE();
namespace cachecard::kernel::HWY_NAMESPACE {
#if HWY_NATIVE_FMA

namespace hn = hwy::HWY_NAMESPACE;

/// {cos, sin} of theta, times magnitude: lane i's pair at out[2i].   spec: CODECS.md#angles, operation by operation
template <class D>
HWY_INLINE void put_angles(D d, hn::VFromD<D> theta, hn::VFromD<D> magnitude, float* out) {
  const auto k = hn::Round(hn::Mul(theta, hn::Set(d, kTwoOverPi)));
  const auto r = hn::NegMulAdd(k, hn::Set(d, kHalfPiLow), hn::NegMulAdd(k, hn::Set(d, kHalfPiHigh), theta));
  const auto z = hn::Mul(r, r);
  auto p = hn::Set(d, kSinTerms[5]);
  auto q = hn::Set(d, kCosTerms[5]);
  for (std::size_t i = 5; i-- > 0;) {
    p = hn::MulAdd(p, z, hn::Set(d, kSinTerms[i]));
    q = hn::MulAdd(q, z, hn::Set(d, kCosTerms[i]));
  }
  const auto one = hn::Set(d, 1.0);
  const auto sine = hn::MulAdd(hn::Mul(r, z), p, r);
  const auto cosine = hn::MulAdd(hn::Mul(z, z), q, hn::MulAdd(z, hn::Set(d, -0.5), one));
  const auto quadrant = hn::Sub(k, hn::Mul(hn::Set(d, 4.0), hn::Floor(hn::Mul(k, hn::Set(d, 0.25)))));
  const auto is_one = hn::Eq(quadrant, one);
  const auto is_two = hn::Eq(quadrant, hn::Set(d, 2.0));
  const auto is_three = hn::Eq(quadrant, hn::Set(d, 3.0));
  const auto swaps = hn::Or(is_one, is_three);
  auto c = hn::IfThenElse(swaps, sine, cosine);
  auto s = hn::IfThenElse(swaps, cosine, sine);
  c = hn::IfThenElse(hn::Or(is_one, is_two), hn::Neg(c), c);
  s = hn::IfThenElse(hn::Or(is_two, is_three), hn::Neg(s), s);
  const hn::Rebind<float, D> narrow;
  hn::StoreInterleaved2(hn::DemoteTo(narrow, hn::Mul(magnitude, c)), hn::DemoteTo(narrow, hn::Mul(magnitude, s)),
                        narrow, out);
}

void rope_angles(std::span<const std::int32_t> positions, std::span<const double> frequencies, double magnitude,
                 float* out) {
  const hn::ScalableTag<double> d;
  constexpr std::size_t kRun = hn::MaxLanes(hn::ScalableTag<double>());
  const auto factor = hn::Set(d, magnitude);
  const std::size_t count = frequencies.size();
  HWY_ALIGN double last[kRun] = {};  // a full vector for the frequencies that do not fill one
  std::copy(frequencies.end() - static_cast<std::ptrdiff_t>(count % kRun), frequencies.end(), last);
  HWY_ALIGN float last_angles[2 * kRun];
  for (const std::int32_t position : positions) {
    const auto at = hn::Set(d, static_cast<double>(position));
    std::size_t i = 0;
    for (; i + kRun <= count; i += kRun) {
      put_angles(d, hn::Mul(at, hn::LoadU(d, frequencies.data() + i)), factor, out + 2 * i);
    }
    if (i < count) {
      put_angles(d, hn::Mul(at, hn::Load(d, last)), factor, last_angles);
      std::memcpy(out + 2 * i, last_angles, 2 * (count - i) * sizeof(float));
    }
    out += 2 * count;
  }
}

#endif  // HWY_NATIVE_FMA
}  // namespace cachecard::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
