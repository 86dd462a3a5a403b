#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "kernel/floats.hpp"
#include "kernel/planes.hpp"
#include "kernel/planes_tables.hpp"

namespace cachecard::kernel {
namespace {

float load_value(const std::byte* row, DType dtype, std::size_t i) {
  if (dtype == DType::kF32) {
    float value;
    std::memcpy(&value, row + 4 * i, sizeof(value));
    return value;
  }
  std::uint16_t half;
  std::memcpy(&half, row + 2 * i, sizeof(half));
  return dtype == DType::kF16 ? f32_from_f16(half) : f32_from_bf16(half);
}

void store_value(std::byte* at, DType dtype, float value) {
  if (dtype == DType::kF32) {
    std::memcpy(at, &value, sizeof(value));
    return;
  }
  const std::uint16_t half = dtype == DType::kF16 ? f16_from_f32(value) : bf16_from_f32(value);
  std::memcpy(at, &half, sizeof(half));
}

/// Source channel of a card-order channel within a head.
std::uint32_t source_channel(const PlanesShape& shape, std::uint32_t c) {
  if (shape.pairing == RopePairing::kNone) return c;
  if (c >= shape.rotated_width) {
    const std::uint32_t rest = c - shape.rotated_width;
    return rest < shape.rotated_offset ? rest : rest + shape.rotated_width;
  }
  if (shape.pairing == RopePairing::kInterleaved) return shape.rotated_offset + c;
  return shape.rotated_offset + c / 2 + (c % 2) * (shape.rotated_width / 2);
}

void hadamard_sums(std::int32_t* v, std::uint32_t n) {
  for (std::uint32_t stride = 1; stride < n; stride *= 2) {
    for (std::uint32_t start = 0; start < n; start += 2 * stride) {
      for (std::uint32_t i = start; i < start + stride; ++i) {
        const std::int32_t a = v[i];
        const std::int32_t b = v[i + stride];
        v[i] = a + b;
        v[i + stride] = a - b;
      }
    }
  }
}

/// Channels [first, first + n) of the row as 2q + 1 - 2^width, transformed.
void unpack_block(const PlanesRow& row, std::uint32_t first, std::uint32_t n, std::int32_t* out) {
  for (std::uint32_t i = 0; i < n; ++i) {
    std::int32_t q = 0;
    for (std::uint32_t p = 0; p < row.width; ++p) {
      const auto byte = static_cast<std::uint32_t>(row.planes[p][(first + i) / 8]);
      q = 2 * q + static_cast<std::int32_t>(byte >> ((first + i) % 8) & 1u);
    }
    out[i] = 2 * q + 1 - (1 << row.width);
  }
  hadamard_sums(out, n);
}

/// RoPE on a head in card order: pairs are adjacent.
void rotate(float* v, const float* angles, std::uint32_t width) {
  for (std::uint32_t i = 0; i < width; i += 2) {
    const float x = v[i];
    const float y = v[i + 1];
    const float c = angles[i];
    const float s = angles[i + 1];
    v[i] = std::fma(x, c, -(y * s));
    v[i + 1] = std::fma(y, c, x * s);
  }
}

void unrotate(float* v, const float* angles, std::uint32_t width, float gain) {
  for (std::uint32_t i = 0; i < width; i += 2) {
    const float x = v[i];
    const float y = v[i + 1];
    const float c = angles[i];
    const float s = angles[i + 1];
    v[i] = gain * std::fma(x, c, y * s);
    v[i + 1] = gain * std::fma(y, c, -(x * s));
  }
}

void decode_head(const PlanesShape& shape, const PlanesRow& row, std::uint32_t head, float* v) {
  std::int32_t sums[kLargestHadamard];
  const float* step = row.steps + head * shape.group_widths.size();
  const std::uint32_t first = head * shape.head_dim;
  std::uint32_t c = 0;
  for (const std::uint32_t width : shape.group_widths) {
    for (const std::uint32_t end = c + width; c < end; c += shape.hadamard_size) {
      unpack_block(row, first + c, shape.hadamard_size, sums);
      for (std::uint32_t i = 0; i < shape.hadamard_size; ++i) {
        const float mean = row.mean == nullptr ? 0.0f : row.mean[first + c + i];
        v[c + i] = std::fma(static_cast<float>(sums[i]), *step, mean);
      }
    }
    ++step;
  }
  if (row.angles != nullptr) rotate(v, row.angles, shape.rotated_width);
}

void decode_row(const PlanesShape& shape, const PlanesRow& row, const RowTarget& target, float* scratch) {
  const std::size_t size = target.dtype == DType::kF32 ? 4 : 2;
  for (std::uint32_t head = 0; head < shape.head_count; ++head) {
    decode_head(shape, row, head, scratch);
    std::byte* out = target.base + static_cast<std::int64_t>(head) * target.head_stride;
    for (std::uint32_t c = 0; c < shape.head_dim; ++c) {
      store_value(out + source_channel(shape, c) * size, target.dtype, scratch[c]);
    }
  }
}

void decode_rows(const PlanesShape& shape, const PlanesRow& first, std::size_t row_count, const RowTarget& target,
                 std::int64_t row_stride, float* scratch) {
  PlanesRow row = first;
  RowTarget at = target;
  for (std::size_t k = 0; k < row_count; ++k) {
    decode_row(shape, row, at, scratch);
    for (std::uint32_t p = 0; p < row.width; ++p) row.planes[p] += shape.plane_row_bytes();
    row.steps += shape.units();
    if (row.angles != nullptr) row.angles += shape.rotated_width;
    at.base += row_stride;
  }
}

void to_card_order(const PlanesShape& shape, const PlanesInput& input, float* out) {
  for (std::uint32_t head = 0; head < shape.head_count; ++head) {
    float* v = out + head * shape.head_dim;
    for (std::uint32_t c = 0; c < shape.head_dim; ++c) {
      v[c] = load_value(input.row, input.dtype, head * shape.head_dim + source_channel(shape, c));
    }
    if (input.angles != nullptr) unrotate(v, input.angles, shape.rotated_width, input.unrotate_gain);
    if (input.mean == nullptr) continue;
    for (std::uint32_t c = 0; c < shape.head_dim; ++c) v[c] -= input.mean[head * shape.head_dim + c];
  }
}

/// Ranges of all units, or why there are none.
RowOutcome find_ranges(const PlanesShape& shape, const float* values, std::int16_t* ranges) {
  const float* v = values;
  for (std::uint32_t head = 0; head < shape.head_count; ++head) {
    for (std::uint32_t width : shape.group_widths) {
      float largest = 0.0f;
      bool finite = true;
      for (std::uint32_t i = 0; i < width; ++i) {
        finite = finite && std::isfinite(v[i]);
        largest = std::max(largest, std::fabs(v[i]));
      }
      v += width;
      if (!finite) return RowOutcome::kNonFinite;
      if (largest == 0.0f) {
        *ranges++ = kZeroRange;
        continue;
      }
      if (largest < planes_range(kLeastRange) || largest > planes_range(kMostRange)) return RowOutcome::kOutOfReach;
      *ranges++ = static_cast<std::int16_t>(planes_range_for(largest));
    }
  }
  return RowOutcome::kCoded;
}

/// Puts q's bits into the planes. Rows begin at a byte; the last byte's unused bits are zero.
void put_bits(std::span<std::byte* const> planes, std::uint32_t width, std::size_t i, std::uint32_t q) {
  for (std::uint32_t p = 0; p < width; ++p) {
    planes[p][i / 8] |= static_cast<std::byte>((q >> (width - 1 - p) & 1u) << (i % 8));
  }
}

RowOutcome encode_row(const PlanesShape& shape, const PlanesInput& input, std::uint32_t width,
                      std::span<std::byte* const> planes, std::int16_t* ranges, float* scratch) {
  to_card_order(shape, input, scratch);
  const std::size_t elements = shape.elements();
  if (shape.hadamard_size > 1) hadamard(std::span(scratch, elements), shape.hadamard_size);
  if (const RowOutcome outcome = find_ranges(shape, scratch, ranges); outcome != RowOutcome::kCoded) return outcome;
  for (std::uint32_t p = 0; p < width; ++p) std::memset(planes[p], 0, shape.plane_row_bytes());
  const auto half = static_cast<float>(1u << (width - 1));
  const auto most = static_cast<float>((1u << width) - 1);
  std::size_t i = 0;
  for (std::uint32_t head = 0; head < shape.head_count; ++head) {
    for (std::uint32_t group : shape.group_widths) {
      const std::int16_t k = *ranges++;
      const float inverse = k == kZeroRange ? 0.0f : half / planes_range(k);
      for (const std::size_t end = i + group; i < end; ++i) {
        const float q = std::floor(std::fma(scratch[i], inverse, half));
        put_bits(planes, width, i, static_cast<std::uint32_t>(std::clamp(q, 0.0f, most)));
      }
    }
  }
  return RowOutcome::kCoded;
}

struct SinCos {
  double sin;
  double cos;
};

/// spec: CODECS.md#angles; every operation there is one here.
SinCos sin_cos(double theta) {
  const double k = std::nearbyint(theta * kTwoOverPi);
  const double r = std::fma(-k, kHalfPiLow, std::fma(-k, kHalfPiHigh, theta));
  const double z = r * r;
  double p = kSinTerms[5];
  double q = kCosTerms[5];
  for (int i = 4; i >= 0; --i) {
    p = std::fma(p, z, kSinTerms[i]);
    q = std::fma(q, z, kCosTerms[i]);
  }
  const double s = std::fma(r * z, p, r);
  const double c = std::fma(z * z, q, std::fma(z, -0.5, 1.0));
  const auto quadrant = static_cast<int>(k - 4.0 * std::floor(k * 0.25));
  switch (quadrant) {
    case 0: return {s, c};
    case 1: return {c, -s};
    case 2: return {-s, -c};
    default: return {-c, s};
  }
}

void rope_angles(std::span<const std::int32_t> positions, std::span<const double> frequencies, double magnitude,
                 float* out) {
  for (const std::int32_t position : positions) {
    for (const double frequency : frequencies) {
      const SinCos angle = sin_cos(static_cast<double>(position) * frequency);
      *out++ = static_cast<float>(magnitude * angle.cos);
      *out++ = static_cast<float>(magnitude * angle.sin);
    }
  }
}

}  // namespace

float planes_range(std::int32_t k) {
  const auto octave = std::bit_cast<std::uint32_t>(kSixteenthOctaves[static_cast<std::size_t>(k & 15)]);
  return std::bit_cast<float>(octave + (static_cast<std::uint32_t>(k >> 4) << 23));  // an ldexp that stays normal
}

std::int32_t planes_range_for(float largest) {
  const auto bits = std::bit_cast<std::uint32_t>(largest);
  const std::int32_t exponent = static_cast<std::int32_t>(bits >> 23) - 127;
  const float mantissa = std::bit_cast<float>((bits & 0x7FFFFFu) | 0x3F800000u);
  std::int32_t step = 0;
  for (const float octave : kSixteenthOctaves) step += octave < mantissa ? 1 : 0;  // no branch to mispredict
  return 16 * exponent + step;
}

float planes_step(float range, std::uint32_t width, std::uint32_t hadamard_size) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(hadamard_size));
  const float part = std::bit_cast<float>((127u - width) << 23);  // 2^-width
  return range * part * scale;
}

const PlanesKernels& planes_scalar() {
  static constexpr PlanesKernels kSet{"scalar", decode_row, decode_rows, encode_row, to_card_order, rope_angles};
  return kSet;
}

}  // namespace cachecard::kernel
