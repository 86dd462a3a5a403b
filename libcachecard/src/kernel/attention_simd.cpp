// The sets of loops by SIMD target, and the choice between them: as planes_simd.cpp.
#ifndef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_AVX3_DL | HWY_SSSE3 | HWY_SSE4 | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)
#endif
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernel/attention_simd.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h

#include <hwy/highway.h>

#include <algorithm>
#include <span>
#include <vector>

#include "kernel/attention.hpp"
#include "kernel/attention_tables.hpp"

HWY_BEFORE_NAMESPACE();
namespace cachecard::kernel::HWY_NAMESPACE {
#if HWY_NATIVE_FMA

namespace hn = hwy::HWY_NAMESPACE;

using Floats = hn::CappedTag<float, kKeyBlock>;
inline constexpr std::size_t kLanes = hn::MaxLanes(Floats());
inline constexpr std::size_t kVectors = kKeyBlock / kLanes;
inline constexpr std::size_t kTogether = kLanes == 16 ? kMostQueries : kMostQueries / 2;
static_assert(kTogether <= kMostQueries);

HWY_INLINE hn::VFromD<Floats> exp2_of(Floats d, hn::VFromD<Floats> x) {
  const auto clamped = hn::Max(x, hn::Set(d, kLeastExponent));
  const auto whole = hn::Round(clamped);
  const auto f = hn::Sub(clamped, whole);
  auto p = hn::Set(d, kExp2Terms.back());
  for (std::size_t i = kExp2Terms.size() - 1; i-- > 0;) p = hn::MulAdd(p, f, hn::Set(d, kExp2Terms[i]));
  const hn::RebindToSigned<Floats> ints;
  const auto exponent = hn::ShiftLeft<23>(hn::Add(hn::ConvertTo(ints, whole), hn::Set(ints, 127)));
  return hn::Mul(p, hn::BitCast(d, exponent));
}

/// Logits of kCount queries with all keys: logits[query][token].
template <std::size_t kCount>
HWY_INLINE void put_logits(const KeyBlocks& keys, std::size_t blocks, const float* queries, std::size_t stride, float* logits) {
  const Floats d;
  for (std::size_t b = 0; b < blocks; ++b) {
    const float* key = keys.keys + b * keys.dim * kKeyBlock;
    hn::VFromD<Floats> sum[kCount][kVectors];
    for (auto& query : sum) {
      for (auto& v : query) v = hn::Zero(d);
    }
    for (std::size_t c = 0; c < keys.dim; ++c) {
      hn::VFromD<Floats> k[kVectors];
      for (std::size_t v = 0; v < kVectors; ++v) k[v] = hn::LoadU(d, key + c * kKeyBlock + v * kLanes);
      for (std::size_t q = 0; q < kCount; ++q) {
        const auto x = hn::Set(d, queries[q * keys.dim + c]);
        for (std::size_t v = 0; v < kVectors; ++v) sum[q][v] = hn::MulAdd(x, k[v], sum[q][v]);
      }
    }
    for (std::size_t q = 0; q < kCount; ++q) {
      for (std::size_t v = 0; v < kVectors; ++v) hn::StoreU(sum[q][v], d, logits + q * stride + b * kKeyBlock + v * kLanes);
    }
  }
}

HWY_INLINE void add_softmax(float* logits, std::size_t visible, float share, float* sums) {
  const Floats d;
  const std::size_t count = (visible + kKeyBlock - 1) / kKeyBlock * kKeyBlock;
  std::fill(logits + visible, logits + count, kUnseen);
  auto most = hn::Set(d, kUnseen);
  for (std::size_t t = 0; t < count; t += kLanes) most = hn::Max(most, hn::LoadU(d, logits + t));
  most = hn::MaxOfLanes(d, most);
  hn::VFromD<Floats> partial[kVectors];
  for (auto& p : partial) p = hn::Zero(d);
  for (std::size_t t = 0; t < count; t += kKeyBlock) {
    for (std::size_t v = 0; v < kVectors; ++v) {
      const auto p = exp2_of(d, hn::Sub(hn::LoadU(d, logits + t + v * kLanes), most));
      partial[v] = hn::Add(partial[v], p);
      hn::StoreU(p, d, logits + t + v * kLanes);
    }
  }
  HWY_ALIGN float whole[kKeyBlock];
  for (std::size_t v = 0; v < kVectors; ++v) hn::Store(partial[v], d, whole + v * kLanes);
  const auto scale = hn::Set(d, 1.0f / sum_of_block(whole));
  const auto factor = hn::Set(d, share);
  for (std::size_t t = 0; t < count; t += kLanes) {
    const auto a = hn::Mul(hn::LoadU(d, logits + t), scale);
    hn::StoreU(hn::MulAdd(hn::Mul(a, a), factor, hn::LoadU(d, sums + t)), d, sums + t);
  }
}

void add_squares(const KeyBlocks& keys, std::span<const float> queries, std::span<const std::uint32_t> visible,
                 std::span<const float> shares, float* scratch, float* sums) {
  const std::size_t stride = keys.block_count() * kKeyBlock;
  for (std::size_t q = 0; q < visible.size();) {
    const bool full = visible.size() - q >= kTogether;
    const std::size_t count = full ? kTogether : 1;
    const std::uint32_t most = *std::max_element(visible.begin() + static_cast<std::ptrdiff_t>(q),
                                                 visible.begin() + static_cast<std::ptrdiff_t>(q + count));
    const std::size_t blocks = (most + kKeyBlock - 1) / kKeyBlock;
    if (full) {
      put_logits<kTogether>(keys, blocks, queries.data() + q * keys.dim, stride, scratch);
    } else {
      put_logits<1>(keys, blocks, queries.data() + q * keys.dim, stride, scratch);
    }
    for (std::size_t i = 0; i < count; ++i) add_softmax(scratch + i * stride, visible[q + i], shares[q + i], sums);
    q += count;
  }
}

const AttentionKernels& attention_set() {
#if HWY_TARGET == HWY_AVX3
  static constexpr const char* kName = "avx512";
#elif HWY_TARGET == HWY_AVX2
  static constexpr const char* kName = "avx2";
#else
  static constexpr const char* kName = "neon";
#endif
  static constexpr AttentionKernels kSet{kName, add_squares};
  return kSet;
}

#endif  // HWY_NATIVE_FMA
}  // namespace cachecard::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace cachecard::kernel {
namespace {

std::vector<const AttentionKernels*> supported_sets() {
  std::vector<const AttentionKernels*> sets;
#if HWY_TARGETS & (HWY_AVX3 | HWY_AVX2)
  const std::int64_t supported = hwy::SupportedTargets();
#if HWY_TARGETS & HWY_AVX3
  if ((supported & HWY_AVX3) != 0) sets.push_back(&N_AVX3::attention_set());
#endif
#if HWY_TARGETS & HWY_AVX2  // not where the compiler was told to take AVX-512 for granted
  if ((supported & HWY_AVX2) != 0) sets.push_back(&N_AVX2::attention_set());
#endif
#elif HWY_TARGETS & HWY_NEON
  sets.push_back(&N_NEON::attention_set());  // every AArch64 processor has it
#endif
  sets.push_back(&attention_scalar());
  return sets;
}

}  // namespace

std::span<const AttentionKernels* const> attention_targets() {
  static const std::vector<const AttentionKernels*> kSets = supported_sets();
  return kSets;
}

const AttentionKernels& attention_kernels() { return *attention_targets().front(); }

}  // namespace cachecard::kernel
#endif  // HWY_ONCE
