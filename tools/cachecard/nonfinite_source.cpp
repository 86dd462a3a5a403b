#include "nonfinite_source.hpp"

#include <cstring>

namespace cachecard::cli {
namespace {

constexpr std::uint32_t kF32Exponent = 0x7F800000;
constexpr std::uint16_t kF16Exponent = 0x7C00;
constexpr std::uint16_t kBf16Exponent = 0x7F80;

template <class Word>
bool all_ones(std::span<const std::byte> bytes, std::size_t offset, Word exponent) {
  Word word;
  std::memcpy(&word, bytes.data() + offset, sizeof word);
  return (word & exponent) == exponent;
}

template <class Word>
std::uint64_t count_words(std::span<const std::byte> rows, Word exponent) {
  std::uint64_t count = 0;
  for (std::size_t i = 0; i + sizeof(Word) <= rows.size(); i += sizeof(Word)) {
    count += all_ones(rows, i, exponent) ? 1 : 0;
  }
  return count;
}

/// Blocks start with an f16 scale; those of q4_1 and q5_1 have an f16 minimum next.
/// source: ggml-common.h
std::uint64_t count_blocks(const DTypeInfo& info, std::span<const std::byte> rows) {
  const bool minimum = info.dtype == DType::kQ4_1 || info.dtype == DType::kQ5_1;
  std::uint64_t count = 0;
  for (std::size_t i = 0; i + info.block_bytes <= rows.size(); i += info.block_bytes) {
    if (all_ones(rows, i, kF16Exponent) || (minimum && all_ones(rows, i + 2, kF16Exponent))) {
      count += info.block_elements;
    }
  }
  return count;
}

}  // namespace

std::uint64_t count_nonfinite(DType dtype, std::span<const std::byte> rows) {
  switch (dtype) {
    case DType::kF32:
      return count_words(rows, kF32Exponent);
    case DType::kF16:
      return count_words(rows, kF16Exponent);
    case DType::kBf16:
      return count_words(rows, kBf16Exponent);
    default:
      break;
  }
  const DTypeInfo* info = dtype_info(dtype);
  return info == nullptr || info->block_elements == 1 ? 0 : count_blocks(*info, rows);
}

Status NonfiniteSource::read_rows(std::size_t stream_index, std::uint64_t first_token,
                                  std::uint64_t token_count, std::span<std::byte> out) const {
  if (Status s = source_.read_rows(stream_index, first_token, token_count, out); !s) return s;
  const auto dtype = static_cast<DType>(source_.header().streams[stream_index].dtype);
  count_.fetch_add(count_nonfinite(dtype, out), std::memory_order_relaxed);
  return {};
}

}  // namespace cachecard::cli
