#include "kernel/ggml_blocks.hpp"

#include <algorithm>
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

/// Whether any exponent is all ones. In words of the element's width and with no early way out: it vectorises.
template <class Word>
bool any_exponent(const std::byte* in, std::size_t n, Word mask) {
  Word found = 0;
  for (std::size_t i = 0; i < n; ++i) {
    Word word;
    std::memcpy(&word, in + i * sizeof(Word), sizeof(Word));
    found = static_cast<Word>(found | static_cast<Word>(static_cast<Word>(word & mask) == mask));
  }
  return found != 0;
}

/// Elements whose exponent bits are all ones: as good as always none, so a piece is counted only where it holds any.
template <class Word>
std::size_t count_exponent(std::span<const std::byte> in, Word mask) {
  constexpr std::size_t kPiece = 8192;
  std::size_t count = 0;
  const std::size_t n = in.size() / sizeof(Word);
  for (std::size_t done = 0; done < n; done += kPiece) {
    const std::byte* at = in.data() + done * sizeof(Word);
    const std::size_t part = std::min(kPiece, n - done);
    if (!any_exponent<Word>(at, part, mask)) continue;
    for (std::size_t i = 0; i < part; ++i) count += any_exponent<Word>(at + i * sizeof(Word), 1, mask) ? 1 : 0;
  }
  return count;
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

std::size_t count_nonfinite(DType dtype, std::span<const std::byte> in) {
  if (dtype == DType::kF32) return count_exponent<std::uint32_t>(in, 0x7F800000u);
  if (dtype == DType::kF16) return count_exponent<std::uint16_t>(in, 0x7C00u);
  if (dtype == DType::kBf16) return count_exponent<std::uint16_t>(in, 0x7F80u);
  const DTypeInfo& info = *dtype_info(dtype);
  if (info.block_elements == 1) return 0;
  const bool has_minimum = dtype == DType::kQ4_1 || dtype == DType::kQ5_1;
  std::size_t count = 0;
  for (std::size_t at = 0; at < in.size(); at += info.block_bytes) {
    const bool bad_scale = (load_u16(in.data() + at) & 0x7C00u) == 0x7C00u;
    const bool bad_minimum = has_minimum && (load_u16(in.data() + at + 2) & 0x7C00u) == 0x7C00u;
    if (bad_scale || bad_minimum) count += info.block_elements;
  }
  return count;
}

}  // namespace cachecard::kernel
