// The sets of loops by SIMD target, and the choice between them: as planes_simd.cpp.
#ifndef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_AVX3_DL | HWY_SSSE3 | HWY_SSE4 | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)
#endif
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernel/entropy_simd.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h

#include <hwy/highway.h>

#include <span>
#include <vector>

#include "kernel/entropy.hpp"
#include "kernel/entropy_decode_inl.hpp"
#include "kernel/entropy_encode_inl.hpp"
#include "kernel/entropy_put_inl.hpp"
#include "kernel/entropy_sums_inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace cachecard::kernel::HWY_NAMESPACE {
#if HWY_NATIVE_FMA

const EntropyKernels& entropy_set() {
#if HWY_TARGET == HWY_AVX3
  static constexpr const char* kName = "avx512";
#elif HWY_TARGET == HWY_AVX2
  static constexpr const char* kName = "avx2";
#else
  static constexpr const char* kName = "neon";
#endif
  static constexpr EntropyKernels kSet{kName,          decode_strips, put_strip,   quantise_strip, encode_strip,
                                       add_products,   add_costs,    add_moments, row_energy};
  return kSet;
}

#endif  // HWY_NATIVE_FMA
}  // namespace cachecard::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace cachecard::kernel {
namespace {

std::vector<const EntropyKernels*> supported_sets() {
  std::vector<const EntropyKernels*> sets;
#if HWY_TARGETS & (HWY_AVX3 | HWY_AVX2)
  const std::int64_t supported = hwy::SupportedTargets();
#if HWY_TARGETS & HWY_AVX3
  if ((supported & HWY_AVX3) != 0) sets.push_back(&N_AVX3::entropy_set());
#endif
#if HWY_TARGETS & HWY_AVX2  // not where the compiler was told to take AVX-512 for granted
  if ((supported & HWY_AVX2) != 0) sets.push_back(&N_AVX2::entropy_set());
#endif
#elif HWY_TARGETS & HWY_NEON
  sets.push_back(&N_NEON::entropy_set());  // every AArch64 processor has it
#endif
  sets.push_back(&entropy_scalar());
  return sets;
}

}  // namespace

std::span<const EntropyKernels* const> entropy_targets() {
  static const std::vector<const EntropyKernels*> kSets = supported_sets();
  return kSets;
}

const EntropyKernels& entropy_kernels() { return *entropy_targets().front(); }

}  // namespace cachecard::kernel
#endif  // HWY_ONCE
