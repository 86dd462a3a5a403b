#include <algorithm>
#include <cstring>

#include "cachecard/types.hpp"

namespace cachecard {
namespace {

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
std::uint64_t count_exponent(std::span<const std::byte> in, Word mask) {
  constexpr std::size_t kPiece = 8192;
  std::uint64_t count = 0;
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

/// source of block types: ggml-common.h; they begin with an f16 scale, q4_1 and q5_1 have an f16 minimum next
std::uint64_t count_nonfinite(DType dtype, std::span<const std::byte> in) {
  if (dtype == DType::kF32) return count_exponent<std::uint32_t>(in, 0x7F800000u);
  if (dtype == DType::kF16) return count_exponent<std::uint16_t>(in, 0x7C00u);
  if (dtype == DType::kBf16) return count_exponent<std::uint16_t>(in, 0x7F80u);
  const DTypeInfo* info = dtype_info(dtype);
  if (info == nullptr || info->block_elements == 1) return 0;
  const bool has_minimum = dtype == DType::kQ4_1 || dtype == DType::kQ5_1;
  std::uint64_t count = 0;
  for (std::size_t at = 0; at < in.size(); at += info->block_bytes) {
    const bool bad_scale = any_exponent<std::uint16_t>(in.data() + at, 1, 0x7C00u);
    const bool bad_minimum = has_minimum && any_exponent<std::uint16_t>(in.data() + at + 2, 1, 0x7C00u);
    if (bad_scale || bad_minimum) count += info->block_elements;
  }
  return count;
}

}  // namespace cachecard
