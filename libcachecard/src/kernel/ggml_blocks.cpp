#include "kernel/ggml_blocks.hpp"

#include <array>
#include <cstdint>
#include <cstring>

#include "kernel/floats.hpp"

namespace cachecard::kernel {
namespace {

constexpr std::size_t kBlock = 32;
// source: ggml-common.h kvalues_iq4nl
constexpr std::array<std::int8_t, 16> kIq4Table{-127, -104, -83, -65, -49, -35, -22, -10,
                                                1,    13,   25,  38,  53,  69,  89,  113};

std::uint16_t load_u16(const std::byte* at) {
  std::uint16_t value;
  std::memcpy(&value, at, sizeof(value));
  return value;
}

std::uint32_t load_u32(const std::byte* at) {
  std::uint32_t value;
  std::memcpy(&value, at, sizeof(value));
  return value;
}

/// Element i of packed nibbles: low half of the block in low nibbles, high half in high ones.
int nibble(const std::byte* qs, std::size_t i) {
  const int byte = static_cast<int>(qs[i % 16]);
  return i < 16 ? byte & 15 : byte >> 4;
}

void block_q8_0(const std::byte* in, float* out) {
  const float d = f32_from_f16(load_u16(in));
  for (std::size_t i = 0; i < kBlock; ++i) {
    out[i] = static_cast<float>(static_cast<std::int8_t>(in[2 + i])) * d;
  }
}

void block_q4_0(const std::byte* in, float* out) {
  const float d = f32_from_f16(load_u16(in));
  for (std::size_t i = 0; i < kBlock; ++i) out[i] = static_cast<float>(nibble(in + 2, i) - 8) * d;
}

void block_q4_1(const std::byte* in, float* out) {
  const float d = f32_from_f16(load_u16(in));
  const float m = f32_from_f16(load_u16(in + 2));
  for (std::size_t i = 0; i < kBlock; ++i) out[i] = static_cast<float>(nibble(in + 4, i)) * d + m;
}

void block_q5_0(const std::byte* in, float* out) {
  const float d = f32_from_f16(load_u16(in));
  const std::uint32_t high = load_u32(in + 2);
  for (std::size_t i = 0; i < kBlock; ++i) {
    const int q = nibble(in + 6, i) | static_cast<int>(high >> i & 1u) << 4;
    out[i] = static_cast<float>(q - 16) * d;
  }
}

void block_q5_1(const std::byte* in, float* out) {
  const float d = f32_from_f16(load_u16(in));
  const float m = f32_from_f16(load_u16(in + 2));
  const std::uint32_t high = load_u32(in + 4);
  for (std::size_t i = 0; i < kBlock; ++i) {
    const int q = nibble(in + 8, i) | static_cast<int>(high >> i & 1u) << 4;
    out[i] = static_cast<float>(q) * d + m;
  }
}

void block_iq4_nl(const std::byte* in, float* out) {
  const float d = f32_from_f16(load_u16(in));
  for (std::size_t i = 0; i < kBlock; ++i) {
    out[i] = static_cast<float>(kIq4Table[static_cast<std::size_t>(nibble(in + 2, i))]) * d;
  }
}

template <auto kDecode, std::size_t kBytes>
void blocks(const std::byte* in, std::span<float> out) {
  for (std::size_t i = 0; i < out.size(); i += kBlock, in += kBytes) kDecode(in, out.data() + i);
}

}  // namespace

void to_f32(DType dtype, std::span<const std::byte> in, std::span<float> out) {
  switch (dtype) {
    case DType::kF32:
      if (!out.empty()) std::memcpy(out.data(), in.data(), out.size_bytes());
      return;
    case DType::kF16:
      for (std::size_t i = 0; i < out.size(); ++i) out[i] = f32_from_f16(load_u16(in.data() + 2 * i));
      return;
    case DType::kBf16:
      for (std::size_t i = 0; i < out.size(); ++i) out[i] = f32_from_bf16(load_u16(in.data() + 2 * i));
      return;
    case DType::kQ8_0:
      return blocks<block_q8_0, 34>(in.data(), out);
    case DType::kQ4_0:
      return blocks<block_q4_0, 18>(in.data(), out);
    case DType::kQ4_1:
      return blocks<block_q4_1, 20>(in.data(), out);
    case DType::kQ5_0:
      return blocks<block_q5_0, 22>(in.data(), out);
    case DType::kQ5_1:
      return blocks<block_q5_1, 24>(in.data(), out);
    case DType::kIq4Nl:
      return blocks<block_iq4_nl, 18>(in.data(), out);
    case DType::kBytes:
      return;
  }
}

}  // namespace cachecard::kernel
