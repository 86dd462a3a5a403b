#include "float_types.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

namespace cachecard::llama_cpp {
namespace {

struct F32 {
  using Bits = std::uint32_t;
  static float load(Bits bits) { return std::bit_cast<float>(bits); }
  static Bits store(float value) { return std::bit_cast<Bits>(value); }
};

struct Bf16 {
  using Bits = std::uint16_t;
  static float load(Bits bits) { return std::bit_cast<float>(std::uint32_t{bits} << 16); }
  static Bits store(float value) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return static_cast<Bits>((bits >> 16) | 0x40u);
    return static_cast<Bits>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
  }
};

/// Ways are computed side by side and chosen from, so that loops become vector code.
struct F16 {
  using Bits = std::uint16_t;
  static float load(Bits bits) {
    const std::uint32_t sign = (std::uint32_t{bits} & 0x8000u) << 16;
    const std::uint32_t magnitude = bits & 0x7FFFu;
    // Read as a float, the bits are the value times 2^-112, subnormal halves included.
    const float scaled = std::bit_cast<float>(magnitude << 13) * 0x1p112f;
    const std::uint32_t special = 0x7F800000u | ((magnitude & 0x3FFu) << 13);
    const std::uint32_t finite = std::bit_cast<std::uint32_t>(scaled);
    return std::bit_cast<float>(sign | (magnitude >= 0x7C00u ? special : finite));
  }
  static Bits store(float value) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    const std::uint32_t sign = (bits >> 16) & 0x8000u;
    const std::uint32_t magnitude = bits & 0x7FFFFFFFu;
    const std::uint32_t nan = 0x7E00u | ((magnitude >> 13) & 0x3FFu);
    // Adding 0.5 rounds to a multiple of 2^-24, the step of subnormal halves.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    const std::uint32_t subnormal = std::bit_cast<std::uint32_t>(shifted) - 0x3F000000u;
    const std::uint32_t normal = (magnitude + 0xFFFu + ((magnitude >> 13) & 1u) - 0x38000000u) >> 13;
    std::uint32_t half = magnitude < 0x38800000u ? subnormal : normal;
    half = magnitude >= 0x47800000u ? 0x7C00u : half;
    half = magnitude > 0x7F800000u ? nan : half;
    return static_cast<Bits>(sign | half);
  }
};

template <class From, class To>
double convert(std::span<const std::byte> in, std::span<std::byte> out) {
  const std::size_t count = in.size() / sizeof(typename From::Bits);
  std::int32_t loss = 0;  // bits of a float: for those above zero the order is the same
  for (std::size_t i = 0; i < count; ++i) {
    typename From::Bits bits;
    std::memcpy(&bits, in.data() + i * sizeof(bits), sizeof(bits));
    const float value = From::load(bits);
    const typename To::Bits stored = To::store(value);
    std::memcpy(out.data() + i * sizeof(stored), &stored, sizeof(stored));
    const auto difference = std::bit_cast<std::int32_t>(std::fabs(value - To::load(stored)));
    // What became infinite or was NaN is counted, not measured.
    const std::int32_t measured = difference < 0x7F800000 ? difference : 0;
    loss = measured > loss ? measured : loss;
  }
  return static_cast<double>(std::bit_cast<float>(loss));
}

template <class From>
double convert_from(DType to, std::span<const std::byte> in, std::span<std::byte> out) {
  if (to == DType::kF32) return convert<From, F32>(in, out);
  if (to == DType::kBf16) return convert<From, Bf16>(in, out);
  return convert<From, F16>(in, out);
}

template <class Bits>
void transpose_as(const TransposeShape& shape, std::span<const std::byte> in, std::span<std::byte> out) {
  constexpr std::size_t kRowsAtOnce = 64;  // a block's rows stay in the cache
  for (std::size_t first = 0; first < shape.row_count; first += kRowsAtOnce) {
    const std::size_t end = std::min(shape.row_count, first + kRowsAtOnce);
    for (std::size_t channel = 0; channel < shape.channel_count; ++channel) {
      std::byte* target = out.data() + channel * shape.row_count * sizeof(Bits);
      const std::size_t column = shape.first_channel + channel;
      for (std::size_t row = first; row < end; ++row) {
        std::memcpy(target + row * sizeof(Bits),
                    in.data() + (row * shape.row_elements + column) * sizeof(Bits), sizeof(Bits));
      }
    }
  }
}

}  // namespace

double convert_floats(DType from, DType to, std::span<const std::byte> in, std::span<std::byte> out) {
  if (from == DType::kF32) return convert_from<F32>(to, in, out);
  if (from == DType::kBf16) return convert_from<Bf16>(to, in, out);
  return convert_from<F16>(to, in, out);
}

void transpose(const TransposeShape& shape, std::span<const std::byte> in, std::span<std::byte> out) {
  if (shape.element_bytes == 2) {
    transpose_as<std::uint16_t>(shape, in, out);
  } else {
    transpose_as<std::uint32_t>(shape, in, out);
  }
}

}  // namespace cachecard::llama_cpp
