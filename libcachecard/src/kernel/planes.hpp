#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "cachecard/types.hpp"

/// The inner loops of the codec `planes`, row by row. Scalar code is the reference; any other set gives the same bits.
/// Spec: CODECS.md#planes

namespace cachecard::kernel {

inline constexpr std::uint32_t kMostPlanes = 8;
inline constexpr std::uint32_t kLargestHadamard = 128;  ///< 128 x 255 still fits an i16

/// Sixteenths of an octave that a head vector's range may have; a zero vector has kZeroRange.
inline constexpr std::int32_t kLeastRange = -1600;
inline constexpr std::int32_t kMostRange = 1600;
inline constexpr std::int16_t kZeroRange = INT16_MIN;

/// How a row of a stream stands in its chunk. Channels are in card order: head by head, RoPE pairs adjacent and first.
/// Invariant: group_widths add up to head_dim; hadamard_size divides each; rotated channels lie inside the head.
struct PlanesShape {
  std::uint32_t head_count = 0;
  std::uint32_t head_dim = 0;
  std::uint32_t hadamard_size = 1;
  std::span<const std::uint32_t> group_widths;  ///< of one head, in card order
  RopePairing pairing = RopePairing::kNone;     ///< kNone: RoPE was left in, card order is the source's
  std::uint32_t rotated_offset = 0;             ///< in the source's head
  std::uint32_t rotated_width = 0;

  std::uint32_t elements() const { return head_count * head_dim; }
  std::size_t units() const { return head_count * group_widths.size(); }  ///< scales of a row
  std::size_t plane_row_bytes() const { return (std::size_t{elements()} + 7) / 8; }
};

/// The range 2^(k/16) of a scale. Needs: kLeastRange <= k <= kMostRange.   Spec: CODECS.md#range
float planes_range(std::int32_t k);

/// Smallest k with planes_range(k) >= largest. Needs: planes_range(kLeastRange) <= largest <= planes_range(kMostRange).
std::int32_t planes_range_for(float largest);

/// step of a unit: range x 2^-width / sqrt(hadamard_size), in that order.   Spec: CODECS.md#planes-decode
float planes_step(float range, std::uint32_t width, std::uint32_t hadamard_size);

/// One coded token as it lies in the planes.
struct PlanesRow {
  std::array<const std::byte*, kMostPlanes> planes{};  ///< this row's bits in each plane, most significant first
  std::uint32_t width = 0;                             ///< planes that it has, 1 to 8
  const float* steps = nullptr;   ///< one a unit
  const float* mean = nullptr;    ///< one a channel in card order, or null
  const float* angles = nullptr;  ///< {cos, sin} a pair, or null
};

/// A row of values in the source's channel order: head h begins at base + h x head_stride bytes, its channels lie side by
/// side.
struct RowTarget {
  std::byte* base = nullptr;
  std::int64_t head_stride = 0;
  DType dtype = DType::kF32;  ///< f32, f16 or bf16
};

/// A token to code.
struct PlanesInput {
  const std::byte* row = nullptr;  ///< elements() values, head by head
  DType dtype = DType::kF32;       ///< f32, f16 or bf16
  const float* mean = nullptr;
  const float* angles = nullptr;
  float unrotate_gain = 1.0f;      ///< 1 / magnitude^2
};

/// What became of a row.
enum class RowOutcome : std::uint8_t { kCoded, kNonFinite, kOutOfReach };

/// A set of loops for one SIMD target. Every member gives the same bits as the scalar set's.
struct PlanesKernels {
  const char* name;
  /// Needs: row.width 1..8, its planes readable for shape.plane_row_bytes().   scratch: shape.head_dim floats
  void (*decode_row)(const PlanesShape& shape, const PlanesRow& row, const RowTarget& target, float* scratch);
  /// decode_row for neighbours: row k lies k x plane_row_bytes(), k x units() steps and k x rotated_width angles behind
  /// the first, and goes k x row_stride bytes behind the target. Faster than a call a row.
  void (*decode_rows)(const PlanesShape& shape, const PlanesRow& first, std::size_t row_count, const RowTarget& target,
                      std::int64_t row_stride, float* scratch);
  /// Quantises one row to width bits: writes plane_row_bytes() into each of width planes, and each unit's range k.
  /// scratch: shape.elements() floats. Nothing is written unless it returns kCoded.
  RowOutcome (*encode_row)(const PlanesShape& shape, const PlanesInput& input, std::uint32_t width,
                           std::span<std::byte* const> planes, std::int16_t* ranges, float* scratch);
  /// The row as coded, before the Hadamard transform: RoPE off, mean off, card order.   out: shape.elements() floats.
  void (*to_card_order)(const PlanesShape& shape, const PlanesInput& input, float* out);
  /// {cos, sin} of position x frequency, times magnitude, rounded to f32.
  /// Shape: out[position][frequency][2].   Spec: CODECS.md#angles
  void (*rope_angles)(std::span<const std::int32_t> positions, std::span<const double> frequencies, double magnitude,
                      float* out);
};

/// The reference.
const PlanesKernels& planes_scalar();

/// The sets that this processor runs, best first, scalar last.   Names: avx512, avx2, neon, scalar
std::span<const PlanesKernels* const> planes_targets();

/// The best of them.
const PlanesKernels& planes_kernels();

}  // namespace cachecard::kernel
