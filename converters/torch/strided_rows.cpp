#include "strided_rows.hpp"

#include <cstring>
#include <vector>

namespace cachecard::pytorch {
namespace {

/// A read may take this many bytes for one that is wanted; beyond, smaller pieces are read.
constexpr std::uint64_t kWaste = 4;

void copy_vector(const std::byte* in, const StridedShape& shape, std::byte* out) {
  if (shape.channel_stride == shape.element_bytes) {
    std::memcpy(out, in, shape.channel_count * shape.element_bytes);
    return;
  }
  for (std::uint64_t c = 0; c < shape.channel_count; ++c) {
    std::memcpy(out + c * shape.element_bytes, in + c * shape.channel_stride, shape.element_bytes);
  }
}

/// One head of some tokens: a part of the rows, read in one piece, by token, or value by value.
class HeadReader {
 public:
  HeadReader(const ByteSource& source, const StridedShape& shape) : source_(source), shape_(shape) {}

  Status read(std::uint64_t offset, std::uint64_t count, std::byte* out, std::uint64_t row_bytes) {
    StridedShape head = shape_;
    head.head_count = 1;
    const std::uint64_t wanted = count * head.row_bytes();
    if (head.extent(count) <= wanted * kWaste) {
      if (Status s = fill(offset, head.extent(count)); !s) return s;
      for (std::uint64_t t = 0; t < count; ++t) {
        copy_vector(piece_.data() + t * head.token_stride, head, out + t * row_bytes);
      }
      return {};
    }
    for (std::uint64_t t = 0; t < count; ++t) {
      if (Status s = read_vector(offset + t * head.token_stride, head, out + t * row_bytes); !s) return s;
    }
    return {};
  }

 private:
  Status read_vector(std::uint64_t offset, const StridedShape& head, std::byte* out) {
    if (head.extent(1) <= head.row_bytes() * kWaste) {
      if (Status s = fill(offset, head.extent(1)); !s) return s;
      copy_vector(piece_.data(), head, out);
      return {};
    }
    for (std::uint64_t c = 0; c < head.channel_count; ++c) {
      const std::span<std::byte> value(out + c * head.element_bytes, head.element_bytes);
      if (Status s = source_.read_at(offset + c * head.channel_stride, value); !s) return s;
    }
    return {};
  }

  Status fill(std::uint64_t offset, std::uint64_t size) {
    piece_.resize(size);
    return source_.read_at(offset, piece_);
  }

  const ByteSource& source_;
  const StridedShape& shape_;
  std::vector<std::byte> piece_;
};

}  // namespace

std::uint64_t StridedShape::extent(std::uint64_t tokens) const {
  if (head_count == 0 || tokens == 0 || channel_count == 0) return 0;
  return (head_count - 1) * head_stride + (tokens - 1) * token_stride + (channel_count - 1) * channel_stride +
         element_bytes;
}

void gather_rows(const std::byte* base, const StridedShape& shape, std::uint64_t first, std::uint64_t count,
                 std::span<std::byte> out) {
  const std::uint64_t vector_bytes = shape.channel_count * shape.element_bytes;
  std::byte* at = out.data();
  for (std::uint64_t t = first; t < first + count; ++t) {
    for (std::uint64_t h = 0; h < shape.head_count; ++h, at += vector_bytes) {
      copy_vector(base + h * shape.head_stride + t * shape.token_stride, shape, at);
    }
  }
}

Status read_strided_rows(const ByteSource& source, std::uint64_t offset, const StridedShape& shape,
                         std::uint64_t first, std::uint64_t count, std::span<std::byte> out) {
  if (count == 0) return {};
  const std::uint64_t start = offset + first * shape.token_stride;
  const std::uint64_t extent = shape.extent(count);
  if (const auto view = source.view(start, extent); !view.empty()) {
    gather_rows(view.data(), shape, 0, count, out);
    return {};
  }
  if (extent <= out.size() * kWaste) {
    std::vector<std::byte> piece(extent);
    if (Status s = source.read_at(start, piece); !s) return s;
    gather_rows(piece.data(), shape, 0, count, out);
    return {};
  }
  const std::uint64_t vector_bytes = shape.channel_count * shape.element_bytes;
  HeadReader reader(source, shape);
  for (std::uint64_t h = 0; h < shape.head_count; ++h) {
    if (Status s = reader.read(start + h * shape.head_stride, count, out.data() + h * vector_bytes,
                               shape.row_bytes());
        !s) {
      return s;
    }
  }
  return {};
}

}  // namespace cachecard::pytorch
