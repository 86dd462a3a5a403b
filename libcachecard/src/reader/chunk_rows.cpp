#include "reader/chunk_rows.hpp"

#include <algorithm>
#include <cstring>

#include "base/checked.hpp"
#include "codec/byte_compressor.hpp"
#include "codec/magnitudes.hpp"
#include "format/framing.hpp"
#include "reader/payload.hpp"

namespace cachecard {
namespace {

bool is_planes(const FrameHeader& frame) { return frame.codec == static_cast<std::uint8_t>(Codec::kPlanes); }
bool is_entropy(const FrameHeader& frame) { return frame.codec == static_cast<std::uint8_t>(Codec::kEntropy); }

/// What planes_decode_scratch asks for, without the chunk's parameters: they have at most 64 groups a head.
std::size_t planes_floats(const StreamRecord& stream) {
  const std::uint64_t groups = std::min<std::uint64_t>(stream.head_dim, kMostPlanesParts);
  return align64((kPlanesRunRows * stream.kv_head_count * groups + stream.head_dim) * sizeof(float));
}

/// The payload as stored, in scratch or in place, its digest checked.
Result<std::span<const std::byte>> load_stored(const ByteSource& source, const FrameHeader& frame,
                                               std::span<std::byte> scratch) {
  const std::uint64_t at = frame.offset + kFrameHeaderSize;
  std::span<const std::byte> stored = source.view(at, frame.stored_size);
  if (stored.empty() && frame.stored_size > 0) {
    const auto buffer = scratch.first(frame.stored_size);
    if (Status s = source.read_at(at, buffer); !s) return s.error();
    stored = buffer;
  }
  if (Status s = check_digest(frame, stored); !s) return s.error();
  return stored;
}

}  // namespace

std::size_t chunk_scratch(const StreamRecord& stream, const FrameHeader& frame) {
  const std::size_t stored = align64(frame.stored_size);
  if (is_planes(frame)) {
    return stored + planes_floats(stream) + align64(row_bytes(stream, static_cast<DType>(stream.dtype)));
  }
  if (is_entropy(frame)) {
    return stored + entropy_decode_scratch(stream, frame) + align64(row_bytes(stream, static_cast<DType>(stream.dtype)));
  }
  return stored + align64(frame.decoded_size) +
         decompress_scratch(static_cast<Compressor>(frame.compressor), frame.decoded_size);
}

Result<ChunkRows> ChunkRows::open(const CardReader& card, const FrameHeader& frame, std::span<std::byte> scratch,
                                  std::int64_t rope_shift) {
  const std::size_t index = *card.header().stream_index(frame.layer, static_cast<StreamKind>(frame.stream));
  const StreamRecord& stream = card.header().streams[index];
  ChunkRows rows;
  rows.row_size_ = row_bytes(stream, static_cast<DType>(stream.dtype));
  rows.head_count_ = stream.kv_head_count;
  rows.head_size_ = rows.row_size_ / stream.kv_head_count;
  rows.dtype_ = static_cast<DType>(stream.dtype);
  auto stored = load_stored(card.source(), frame, scratch);
  if (!stored) return stored.error();
  rows.payload_ = *stored;
  const auto rest = scratch.subspan(align64(frame.stored_size));
  if (is_planes(frame)) {
    if (Status s = rows.open_planes(card, frame, rest, rope_shift); !s) return s.error();
    return rows;
  }
  if (is_entropy(frame)) {
    if (Status s = rows.open_entropy(card, frame, rest, rope_shift); !s) return s.error();
    return rows;
  }
  if (frame.compressor == 0) return rows;
  const auto out = rest.first(frame.decoded_size);
  if (Status s = inflate_payload(frame, *stored, out, rest.subspan(align64(frame.decoded_size))); !s) {
    return s.error();
  }
  rows.payload_ = out;
  return rows;
}

Status ChunkRows::open_planes(const CardReader& card, const FrameHeader& frame, std::span<std::byte> scratch,
                              std::int64_t rope_shift) {
  auto context = card.contexts().open(card, frame, rope_shift);
  if (!context) return context.error();
  context_ = std::move(*context);
  const std::size_t index = *card.header().stream_index(frame.layer, static_cast<StreamKind>(frame.stream));
  const StreamRecord& stream = card.header().streams[index];
  auto head = parse_planes_head(stream, frame, *context_->tokens, context_->stream->unit_count(),
                                payload_.first(frame.digest_size));
  if (!head) return head.error();
  if (Status s = check_plane_digests(frame, *head, payload_); !s) return s;
  head_ = std::move(*head);
  const std::size_t floats = planes_floats(stream);
  floats_ = {reinterpret_cast<float*>(scratch.data()), floats / sizeof(float)};
  one_row_ = scratch.subspan(floats, row_size_);
  bound_ = planes().bound();
  return {};
}

Status ChunkRows::open_entropy(const CardReader& card, const FrameHeader& frame, std::span<std::byte> scratch,
                               std::int64_t rope_shift) {
  auto context = card.contexts().open_entropy(card, frame, rope_shift);
  if (!context) return context.error();
  entropy_context_ = std::move(*context);
  const std::size_t index = *card.header().stream_index(frame.layer, static_cast<StreamKind>(frame.stream));
  const StreamRecord& stream = card.header().streams[index];
  const EntropyStream& opened = *entropy_context_->stream;
  auto head = parse_entropy_head(stream, frame, *entropy_context_->tokens, opened.group_widths(), opened.has_scale(), payload_);
  if (!head) return head.error();
  const std::size_t size = entropy_decode_scratch(stream, frame);
  auto chunk = EntropyChunk::open(opened, *entropy_context_->tokens, *head, entropy_context_->chunk_references, frame,
                                  scratch.first(size));
  if (!chunk) return chunk.error();
  entropy_ = std::move(*chunk);
  one_row_ = scratch.subspan(size, row_size_);
  bound_ = opened.bound();
  return {};
}

void ChunkRows::put_coded(std::uint64_t first, std::uint64_t count, const kernel::RowTarget& target,
                          std::int64_t row_stride) const {
  if (entropy_) return entropy_->put(first, count, target, row_stride, entropy_context_->angle_data());
  planes().decode(first, count, target, row_stride, floats_);
}

void ChunkRows::add_squared_bounds(std::span<double> bounds) const {
  if (entropy_) entropy_->add_squared_bounds(bounds);
  if (head_) planes().add_squared_bounds(bounds);
}

bool ChunkRows::surely_finite(std::uint64_t row, DType as) const {
  if (!(bound_ <= std::min(safe_magnitude(dtype_), safe_magnitude(as)))) return false;
  return entropy_ ? entropy_->is_coded(row) : head_ && context_->tokens->coded_width[row] != 0;
}

std::span<const std::byte> ChunkRows::row(std::uint64_t row) const {
  if (!is_coded()) return payload_.subspan(row * row_size_, row_size_);
  put_coded(row, 1, {one_row_.data(), static_cast<std::int64_t>(head_size_), dtype_}, 0);
  return one_row_;
}

void ChunkRows::put_heads(std::uint64_t first, std::uint64_t count, const kernel::RowTarget& target,
                          std::int64_t row_stride) const {
  if (is_coded()) return put_coded(first, count, target, row_stride);
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::byte* in = payload_.data() + (first + i) * row_size_;
    std::byte* out = target.base + static_cast<std::int64_t>(i) * row_stride;
    for (std::uint32_t head = 0; head < head_count_; ++head) {
      std::memcpy(out + static_cast<std::int64_t>(head) * target.head_stride, in + head * head_size_, head_size_);
    }
  }
}

bool ChunkRows::put_turned(std::uint64_t row, std::span<float> out) const {
  if (!is_coded()) return false;
  if (entropy_ ? entropy_context_->angles == nullptr || entropy_->is_exact(row)
               : context_->angles == nullptr || context_->tokens->coded_width[row] == 0) {
    return false;
  }
  const auto head_bytes = static_cast<std::int64_t>(out.size_bytes() / head_count_);
  put_coded(row, 1, {reinterpret_cast<std::byte*>(out.data()), head_bytes, DType::kF32}, 0);
  return true;
}

void ChunkRows::put_rows(std::uint64_t first, std::uint64_t count, std::span<std::byte> out) const {
  if (!is_coded()) {
    std::memcpy(out.data(), payload_.data() + first * row_size_, count * row_size_);
    return;
  }
  put_heads(first, count, {out.data(), static_cast<std::int64_t>(head_size_), dtype_},
            static_cast<std::int64_t>(row_size_));
}

}  // namespace cachecard
