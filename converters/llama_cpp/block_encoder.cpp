#include "block_encoder.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "float_types.hpp"

namespace cachecard::llama_cpp {
namespace {

constexpr std::size_t kBlock = 32;
constexpr std::size_t kHalf = kBlock / 2;

/// One block's codes before they are packed, and what they stand for.
struct Codes {
  std::array<std::int32_t, kBlock> q;
};

/// Largest magnitude. On bits, whose order is that of magnitudes, so that it becomes vector code.
float largest_magnitude(const float* x) {
  std::int32_t most = 0;
  for (std::size_t i = 0; i < kBlock; ++i) {
    const std::int32_t bits = std::bit_cast<std::int32_t>(x[i]) & 0x7FFFFFFF;
    most = bits > most ? bits : most;
  }
  return std::bit_cast<float>(most);
}

/// The first value of that magnitude, with its sign.
float first_extreme(const float* x) {
  const float magnitude = largest_magnitude(x);
  for (std::size_t i = 0; i < kBlock; ++i) {
    if (std::fabs(x[i]) == magnitude) return magnitude == 0.0f ? 0.0f : x[i];
  }
  return magnitude;
}

float inverse(float d) { return d != 0.0f ? 1.0f / d : 0.0f; }

/// Codes trunc((x - base) * id + half), at most most. An infinite id, of a subnormal d, gives codes of zero:
/// what x86 makes of a float that fits no integer.
Codes truncated(const float* x, float base, float id, float half, std::int32_t most) {
  Codes codes{};
  if (!std::isfinite(id)) return codes;
  for (std::size_t i = 0; i < kBlock; ++i) {
    const auto code = static_cast<std::int32_t>((x[i] - base) * id + half);
    codes.q[i] = code < most ? code : most;
  }
  return codes;
}

void pack_nibbles(const Codes& codes, std::byte* out) {
  for (std::size_t j = 0; j < kHalf; ++j) {
    out[j] = static_cast<std::byte>((codes.q[j] & 15) | (codes.q[j + kHalf] & 15) << 4);
  }
}

void pack_fifth_bits(const Codes& codes, std::byte* out) {
  std::uint32_t high = 0;
  for (std::size_t i = 0; i < kBlock; ++i) {
    high |= static_cast<std::uint32_t>(codes.q[i] >> 4 & 1) << i;
  }
  std::memcpy(out, &high, sizeof(high));
}

/// Stores a scale or minimum as f16. Returns what a decoder reads.
float store_half(float value, std::byte* out) {
  convert_floats(DType::kF32, DType::kF16, std::as_bytes(std::span(&value, 1)), {out, 2});
  float read = 0.0f;
  convert_floats(DType::kF16, DType::kF32, {out, 2}, std::as_writable_bytes(std::span(&read, 1)));
  return read;
}

/// Largest |x - ((q - offset) * d + m)|.
float loss_of(const float* x, const Codes& codes, std::int32_t offset, float d, float m) {
  std::int32_t most = 0;
  for (std::size_t i = 0; i < kBlock; ++i) {
    const float decoded = static_cast<float>(codes.q[i] - offset) * d + m;
    const std::int32_t bits = std::bit_cast<std::int32_t>(x[i] - decoded) & 0x7FFFFFFF;
    most = bits > most ? bits : most;
  }
  return std::bit_cast<float>(most);
}

float block_q8_0(const float* x, std::byte* out) {
  // Adding 1.5 * 2^23 leaves the nearest integer, ties to even, in the low bits.
  constexpr float kRounder = 12582912.0f;
  const float magnitude = largest_magnitude(x);
  const float d = store_half(magnitude / 127.0f, out);
  const float id = magnitude != 0.0f ? 127.0f / magnitude : 0.0f;
  Codes codes;
  codes.q.fill(-128);  // an infinite id: no integer, which x86 packs as the smallest
  if (std::isfinite(id)) {
    for (std::size_t i = 0; i < kBlock; ++i) {
      codes.q[i] = static_cast<std::int32_t>((x[i] * id + kRounder) - kRounder);
    }
  }
  for (std::size_t i = 0; i < kBlock; ++i) out[2 + i] = static_cast<std::byte>(codes.q[i]);
  return loss_of(x, codes, 0, d, 0.0f);
}

float block_q4_0(const float* x, std::byte* out) {
  const float d = first_extreme(x) / -8.0f;
  const Codes codes = truncated(x, 0.0f, inverse(d), 8.5f, 15);
  const float stored = store_half(d, out);
  pack_nibbles(codes, out + 2);
  return loss_of(x, codes, 8, stored, 0.0f);
}

float block_q5_0(const float* x, std::byte* out) {
  const float d = first_extreme(x) / -16.0f;
  const Codes codes = truncated(x, 0.0f, inverse(d), 16.5f, 31);
  const float stored = store_half(d, out);
  pack_fifth_bits(codes, out + 2);
  pack_nibbles(codes, out + 6);
  return loss_of(x, codes, 16, stored, 0.0f);
}

/// q4_1 and q5_1: levels from the smallest value to the largest.
float ranged_block(const float* x, std::int32_t most, std::byte* out) {
  float base = x[0];
  float largest = x[0];
  for (std::size_t i = 1; i < kBlock; ++i) {  // of 0 and -0 the first one stays
    base = x[i] < base ? x[i] : base;
    largest = x[i] > largest ? x[i] : largest;
  }
  const float d = (largest - base) / static_cast<float>(most);
  const Codes codes = truncated(x, base, inverse(d), 0.5f, most);
  const float stored = store_half(d, out);
  const float minimum = store_half(base, out + 2);
  if (most == 15) {
    pack_nibbles(codes, out + 4);
  } else {
    pack_fifth_bits(codes, out + 4);
    pack_nibbles(codes, out + 8);
  }
  return loss_of(x, codes, 0, stored, minimum);
}

float block_q4_1(const float* x, std::byte* out) { return ranged_block(x, 15, out); }
float block_q5_1(const float* x, std::byte* out) { return ranged_block(x, 31, out); }

constexpr std::array<float, 16> kIq4Levels{-127, -104, -83, -65, -49, -35, -22, -10,
                                           1,    13,   25,  38,  53,  69,  89,  113};

std::int32_t nearest_level(float x) {
  if (x <= kIq4Levels.front()) return 0;
  if (x >= kIq4Levels.back()) return 15;
  const auto above = std::upper_bound(kIq4Levels.begin(), kIq4Levels.end(), x);
  const auto index = static_cast<std::int32_t>(above - kIq4Levels.begin());
  return x - *(above - 1) < *above - x ? index - 1 : index;  // a tie goes up
}

/// Codes by a provisional scale, then the scale that fits them best, weighted by x^2; codes stay.
float block_iq4_nl(const float* x, std::byte* out) {
  constexpr float kNothing = 1e-15f;  // source: ggml-quants.c GROUP_MAX_EPS
  Codes codes{};
  const float extreme = first_extreme(x);
  float d = 0.0f;
  if (std::fabs(extreme) >= kNothing) {
    const float id = 1.0f / (extreme / kIq4Levels[0]);
    float numerator = 0.0f;
    float denominator = 0.0f;
    for (std::size_t i = 0; i < kBlock; ++i) {
      codes.q[i] = nearest_level(id * x[i]);
      const float level = kIq4Levels[static_cast<std::size_t>(codes.q[i])];
      const float weight = x[i] * x[i];
      numerator += weight * level * x[i];
      denominator += weight * level * level;
    }
    d = denominator > 0.0f ? numerator / denominator : 0.0f;
  }
  const float stored = store_half(d, out);
  pack_nibbles(codes, out + 2);
  float loss = 0.0f;
  for (std::size_t i = 0; i < kBlock; ++i) {
    const float decoded = kIq4Levels[static_cast<std::size_t>(codes.q[i])] * stored;
    loss = std::max(loss, std::fabs(x[i] - decoded));
  }
  return loss;
}

template <auto kEncode, std::size_t kBytes>
double blocks(std::span<const float> values, std::byte* out) {
  float loss = 0.0f;
  for (std::size_t i = 0; i < values.size(); i += kBlock, out += kBytes) {
    const float found = kEncode(values.data() + i, out);
    if (std::isfinite(found)) loss = std::max(loss, found);  // an infinite scale is counted, not measured
  }
  return static_cast<double>(loss);
}

/// Butterflies of one stride within each group; from stride 4 on the inner loop is vector code.
void butterflies(float* values, std::size_t count, std::size_t stride) {
  for (std::size_t start = 0; start < count; start += 2 * stride) {
    float* low = values + start;
    float* high = low + stride;
    for (std::size_t i = 0; i < stride; ++i) {
      const float a = low[i];
      const float b = high[i];
      low[i] = a + b;
      high[i] = a - b;
    }
  }
}

}  // namespace

double encode_blocks(DType dtype, std::span<const float> values, std::span<std::byte> out) {
  switch (dtype) {
    case DType::kQ8_0:
      return blocks<block_q8_0, 34>(values, out.data());
    case DType::kQ4_0:
      return blocks<block_q4_0, 18>(values, out.data());
    case DType::kQ4_1:
      return blocks<block_q4_1, 20>(values, out.data());
    case DType::kQ5_0:
      return blocks<block_q5_0, 22>(values, out.data());
    case DType::kQ5_1:
      return blocks<block_q5_1, 24>(values, out.data());
    case DType::kIq4Nl:
      return blocks<block_iq4_nl, 18>(values, out.data());
    default:
      return 0.0;  // not a block type: excluded by the caller
  }
}

void rotate_groups(std::span<float> values, std::size_t n) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(n));
  for (float& value : values) value *= scale;
  for (std::size_t group = 0; group < values.size(); group += n) {
    for (std::size_t stride = 1; stride < n; stride *= 2) butterflies(values.data() + group, n, stride);
  }
}

}  // namespace cachecard::llama_cpp
