#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "kernel/attention.hpp"
#include "kernel/attention_tables.hpp"

namespace cachecard::kernel {
namespace {

float exp2_of(float x) {
  const float clamped = std::max(x, kLeastExponent);
  const float whole = std::nearbyint(clamped);
  const float f = clamped - whole;
  float p = kExp2Terms.back();
  for (std::size_t i = kExp2Terms.size() - 1; i-- > 0;) p = std::fma(p, f, kExp2Terms[i]);
  return p * std::bit_cast<float>((static_cast<std::int32_t>(whole) + 127) << 23);
}

void add_query(const KeyBlocks& keys, const float* query, std::size_t visible, float share, float* logits, float* sums) {
  const std::size_t blocks = (visible + kKeyBlock - 1) / kKeyBlock;
  float most = kUnseen;
  for (std::size_t b = 0; b < blocks; ++b) {
    const float* block = keys.keys + b * keys.dim * kKeyBlock;
    for (std::size_t i = 0; i < kKeyBlock; ++i) {
      float sum = 0.0f;
      for (std::size_t c = 0; c < keys.dim; ++c) sum = std::fma(query[c], block[c * kKeyBlock + i], sum);
      if (b * kKeyBlock + i >= visible) sum = kUnseen;
      logits[b * kKeyBlock + i] = sum;
      most = std::max(most, sum);
    }
  }
  std::array<float, kKeyBlock> partial{};
  for (std::size_t t = 0; t < blocks * kKeyBlock; ++t) {
    logits[t] = exp2_of(logits[t] - most);
    partial[t % kKeyBlock] += logits[t];
  }
  const float scale = 1.0f / sum_of_block(partial.data());
  for (std::size_t t = 0; t < blocks * kKeyBlock; ++t) {
    const float a = logits[t] * scale;
    sums[t] = std::fma(a * a, share, sums[t]);
  }
}

void add_squares(const KeyBlocks& keys, std::span<const float> queries, std::span<const std::uint32_t> visible,
                 std::span<const float> shares, float* scratch, float* sums) {
  for (std::size_t q = 0; q < visible.size(); ++q) {
    add_query(keys, queries.data() + q * keys.dim, visible[q], shares[q], scratch, sums);
  }
}

}  // namespace

std::size_t attention_scratch(const KeyBlocks& keys) { return kMostQueries * keys.block_count() * kKeyBlock; }

const AttentionKernels& attention_scalar() {
  static constexpr AttentionKernels kSet{"scalar", add_squares};
  return kSet;
}

}  // namespace cachecard::kernel
