#pragma once

#include <span>

#include "cachecard/io.hpp"

namespace cachecard::pytorch {

/// Where value (head, token, channel) of a tensor lies, in bytes from its first value.
struct StridedShape {
  std::uint64_t head_count = 0;
  std::uint64_t token_count = 0;
  std::uint64_t channel_count = 0;
  std::uint64_t element_bytes = 0;
  std::uint64_t head_stride = 0;
  std::uint64_t token_stride = 0;
  std::uint64_t channel_stride = 0;

  std::uint64_t row_bytes() const { return head_count * channel_count * element_bytes; }
  /// Bytes from the first value to behind the last one of token_count tokens.
  std::uint64_t extent(std::uint64_t tokens) const;
};

/// Rows out[token][head][channel] of tokens [first, first + count), from memory.
/// Needs: first + count <= token_count, out.size() == count * row_bytes()
void gather_rows(const std::byte* base, const StridedShape& shape, std::uint64_t first, std::uint64_t count,
                 std::span<std::byte> out);

/// The same from a file, base at offset. Reads little more than the rows, in pieces as large as the
/// strides allow; memory: 4 times the rows at most.
/// Errors: the source's.   Needs: as gather_rows, and that the shape lies inside the source
Status read_strided_rows(const ByteSource& source, std::uint64_t offset, const StridedShape& shape,
                         std::uint64_t first, std::uint64_t count, std::span<std::byte> out);

}  // namespace cachecard::pytorch
