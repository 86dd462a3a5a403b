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

/// Whether any exponent is all ones. No early way out, so that it becomes vector code.
template <class Bits>
bool any_masked(const std::byte* bytes, std::size_t count, Bits mask) {
  Bits found = 0;
  for (std::size_t i = 0; i < count; ++i) {
    Bits value;
    std::memcpy(&value, bytes + i * sizeof(Bits), sizeof(Bits));
    found = static_cast<Bits>(found | static_cast<Bits>(static_cast<Bits>(value & mask) == mask));
  }
  return found != 0;
}

template <class Bits>
std::uint64_t count_masked(std::span<const std::byte> bytes, Bits mask) {
  constexpr std::size_t kAtOnce = 8192;
  std::uint64_t total = 0;
  const std::size_t count = bytes.size() / sizeof(Bits);
  for (std::size_t done = 0; done < count; done += kAtOnce) {
    const std::size_t part = std::min(kAtOnce, count - done);
    const std::byte* at = bytes.data() + done * sizeof(Bits);
    if (!any_masked<Bits>(at, part, mask)) continue;
    for (std::size_t i = 0; i < part; ++i) {
      total += any_masked<Bits>(at + i * sizeof(Bits), 1, mask) ? 1 : 0;
    }
  }
  return total;
}

/// source: ggml-common.h; q4_1 and q5_1 carry a minimum after the scale.
std::uint64_t count_bad_blocks(const DTypeInfo& info, std::span<const std::byte> bytes) {
  const std::size_t scales = info.dtype == DType::kQ4_1 || info.dtype == DType::kQ5_1 ? 2 : 1;
  std::uint64_t blocks = 0;
  for (std::size_t at = 0; at + info.block_bytes <= bytes.size(); at += info.block_bytes) {
    blocks += any_masked<std::uint16_t>(bytes.data() + at, scales, 0x7C00) ? 1 : 0;
  }
  return blocks * info.block_elements;
}

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

std::uint64_t count_nonfinite(DType dtype, std::span<const std::byte> bytes) {
  switch (dtype) {
    case DType::kF32:
      return count_masked<std::uint32_t>(bytes, 0x7F800000u);
    case DType::kF16:
      return count_masked<std::uint16_t>(bytes, 0x7C00);
    case DType::kBf16:
      return count_masked<std::uint16_t>(bytes, 0x7F80);
    case DType::kBytes:
      return 0;
    default:
      return count_bad_blocks(*dtype_info(dtype), bytes);
  }
}

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
