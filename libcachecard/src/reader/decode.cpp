#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>

#include "base/checked.hpp"
#include "cachecard/reader.hpp"
#include "codec/byte_compressor.hpp"
#include "format/framing.hpp"
#include "kernel/floats.hpp"
#include "kernel/ggml_blocks.hpp"
#include "reader/payload.hpp"

namespace cachecard {
namespace {

Error argument_error(std::string detail) {
  return {ErrorCode::kInvalidArgument, kNoOffset, {}, std::move(detail)};
}

/// Scratch of one chunk: stored bytes, decoded bytes, and what the compressor needs.
std::size_t chunk_scratch(const FrameHeader& frame) {
  return align64(frame.stored_size) + align64(frame.decoded_size) +
         decompress_scratch(static_cast<Compressor>(frame.compressor), frame.decoded_size);
}

/// The decoded payload of a chunk, in scratch or in place. Needs: scratch of chunk_scratch bytes.
Result<std::span<const std::byte>> load_chunk(const ByteSource& source, const FrameHeader& frame,
                                              std::span<std::byte> scratch) {
  const std::uint64_t at = frame.offset + kFrameHeaderSize;
  std::span<const std::byte> stored = source.view(at, frame.stored_size);
  if (stored.empty() && frame.stored_size > 0) {
    const auto buffer = scratch.first(frame.stored_size);
    if (Status s = source.read_at(at, buffer); !s) return s.error();
    stored = buffer;
  }
  if (Status s = check_digest(frame, stored); !s) return s.error();
  if (frame.compressor == 0) return stored;
  const auto rest = scratch.subspan(align64(frame.stored_size));
  const auto out = rest.first(frame.decoded_size);
  if (Status s = inflate_payload(frame, stored, out, rest.subspan(align64(frame.decoded_size))); !s) {
    return s.error();
  }
  return std::span<const std::byte>(out);
}

/// Where token t of the request begins.
std::byte* token_base(const DecodeTarget& target, std::uint64_t t) {
  if (target.blocks == nullptr) {
    return static_cast<std::byte*>(target.base) + static_cast<std::int64_t>(t) * target.token_stride;
  }
  const std::uint64_t page = t / target.blocks->page_size;
  return static_cast<std::byte*>(target.blocks->pages[page]) +
         static_cast<std::int64_t>(t % target.blocks->page_size) * target.token_stride;
}

void store_value(DType dtype, float value, std::byte* at) {
  if (dtype == DType::kF32) {
    std::memcpy(at, &value, sizeof(value));
    return;
  }
  const std::uint16_t half =
      dtype == DType::kF16 ? kernel::f16_from_f32(value) : kernel::bf16_from_f32(value);
  std::memcpy(at, &half, sizeof(half));
}

/// Same float type on both sides: bits are copied, NaN payloads included.
void copy_row(const StreamRecord& stream, std::span<const std::byte> row, const DecodeTarget& target,
              std::byte* base) {
  const std::size_t size = dtype_info(target.dtype)->block_bytes;
  for (std::uint32_t head = 0; head < stream.kv_head_count; ++head) {
    std::byte* out = base + static_cast<std::int64_t>(head) * target.head_stride;
    const std::byte* in = row.data() + std::size_t{head} * stream.head_dim * size;
    if (target.channel_stride == static_cast<std::int64_t>(size)) {
      std::memcpy(out, in, stream.head_dim * size);
      continue;
    }
    for (std::uint32_t c = 0; c < stream.head_dim; ++c) {
      std::memcpy(out + static_cast<std::int64_t>(c) * target.channel_stride, in + c * size, size);
    }
  }
}

void store_row(const StreamRecord& stream, std::span<const float> row, const DecodeTarget& target,
               std::byte* base) {
  for (std::uint32_t head = 0; head < stream.kv_head_count; ++head) {
    std::byte* out = base + static_cast<std::int64_t>(head) * target.head_stride;
    for (std::uint32_t c = 0; c < stream.head_dim; ++c) {
      store_value(target.dtype, row[std::size_t{head} * stream.head_dim + c],
                  out + static_cast<std::int64_t>(c) * target.channel_stride);
    }
  }
}

/// Tokens of one chunk that a request touches.
struct Overlap {
  std::uint64_t first;
  std::uint64_t end;
};

Overlap overlap(const FrameHeader& frame, std::uint64_t first_token, std::uint64_t token_count) {
  return {std::max(frame.first_token, first_token),
          std::min(frame.first_token + frame.token_count, first_token + token_count)};
}

Status check_request(const CardHeader& header, std::size_t stream_index, std::uint64_t first_token,
                     std::uint64_t token_count) {
  if (stream_index >= header.streams.size()) {
    return argument_error("no stream " + std::to_string(stream_index));
  }
  const StreamRecord& stream = header.streams[stream_index];
  if (stream.stream == static_cast<std::uint8_t>(StreamKind::kOpaque)) {
    return argument_error("an opaque stream has no rows");
  }
  if (first_token < stream.first_token ||
      !span_within(first_token - stream.first_token, token_count, stream.token_count)) {
    return argument_error("tokens " + std::to_string(first_token) + " + " + std::to_string(token_count) +
                          ", the stream holds " + std::to_string(stream.first_token) + " + " +
                          std::to_string(stream.token_count));
  }
  return {};
}

Status check_target(const DecodeRequest& request, const DecodeTarget& target) {
  if (target.dtype != DType::kF32 && target.dtype != DType::kF16 && target.dtype != DType::kBf16) {
    return argument_error("the target's type must be f32, f16 or bf16");
  }
  if (target.blocks == nullptr) {
    if (target.base == nullptr && request.token_count > 0) return argument_error("no target");
    return {};
  }
  if (target.blocks->page_size == 0 ||
      target.blocks->pages.size() <
          (request.token_count + target.blocks->page_size - 1) / target.blocks->page_size) {
    return {Error{ErrorCode::kBufferTooSmall, kNoOffset, {}, "the block table has too few pages"}};
  }
  return {};
}

/// What the tasks of one decode share; the first error wins.
struct DecodeJob {
  const CardReader& card;
  const DecodeRequest& request;
  const DecodeTarget& target;
  const StreamRecord& stream;
  std::span<const std::uint32_t> chunks;
  std::mutex mutex;
  Status status;

  void fail(const Error& error) {
    const std::scoped_lock lock(mutex);
    if (status) status = error;
  }
  void run(std::size_t index);
};

void DecodeJob::run(std::size_t index) {
  const FrameHeader& frame = card.frames()[chunks[index]];
  const Overlap span = overlap(frame, request.first_token, request.token_count);
  if (span.first >= span.end) return;
  std::vector<std::byte> scratch(chunk_scratch(frame));
  auto rows = load_chunk(card.source(), frame, scratch);
  if (!rows) return fail(rows.error());
  const auto dtype = static_cast<DType>(frame.dtype);
  const std::size_t row_size = row_bytes(stream, dtype);
  const std::uint32_t rotation = request.keep_rotation ? 1 : stream.hadamard_size;
  std::vector<float> values(row_elements(stream));
  for (std::uint64_t t = span.first; t < span.end; ++t) {
    const auto row = rows->subspan((t - frame.first_token) * row_size, row_size);
    std::byte* base = token_base(target, t - request.first_token);
    if (dtype == target.dtype && rotation == 1) {
      copy_row(stream, row, target, base);
      continue;
    }
    kernel::to_f32(dtype, row, values);
    if (rotation > 1) kernel::hadamard(values, rotation);
    store_row(stream, values, target, base);
  }
}

}  // namespace

std::size_t CardReader::scratch_bytes(std::size_t stream_index) const {
  std::size_t most = 0;
  for (std::uint32_t frame : chunks(stream_index)) most = std::max(most, chunk_scratch(frames_[frame]));
  return most;
}

Status CardReader::read_rows(std::size_t stream_index, std::uint64_t first_token, std::uint64_t token_count,
                             std::span<std::byte> out, std::span<std::byte> scratch) const {
  if (Status s = check_request(header_, stream_index, first_token, token_count); !s) return s;
  const StreamRecord& stream = header_.streams[stream_index];
  const std::size_t row_size = row_bytes(stream, static_cast<DType>(stream.dtype));
  if (out.size() != token_count * row_size || scratch.size() < scratch_bytes(stream_index)) {
    return Error{ErrorCode::kBufferTooSmall, kNoOffset, {}, "out or scratch has the wrong size"};
  }
  for (std::uint32_t index : chunks(stream_index)) {
    const FrameHeader& frame = frames_[index];
    const Overlap span = overlap(frame, first_token, token_count);
    if (span.first >= span.end) continue;
    const auto place = out.subspan((span.first - first_token) * row_size, (span.end - span.first) * row_size);
    if (frame.compressor == 0 && place.size() == frame.stored_size) {
      if (Status s = read_stored(index, place); !s) return s;
      continue;
    }
    auto rows = load_chunk(*source_, frame, scratch);
    if (!rows) return rows.error();
    std::memcpy(place.data(), rows->data() + (span.first - frame.first_token) * row_size, place.size());
  }
  return {};
}

Status CardReader::decode(const DecodeRequest& request, const DecodeTarget& target,
                          const ParallelFor& parallel) const {
  if (Status s = check_request(header_, request.stream, request.first_token, request.token_count); !s) {
    return s;
  }
  if (Status s = check_target(request, target); !s) return s;
  DecodeJob job{*this, request, target, header_.streams[request.stream], chunks(request.stream), {}, {}};
  parallel(
      job.chunks.size(),
      [](void* context, std::size_t index) { static_cast<DecodeJob*>(context)->run(index); }, &job);
  return job.status;
}

Status CardReader::read_opaque(std::size_t stream_index, std::uint64_t offset,
                               std::span<std::byte> out) const {
  if (stream_index >= header_.streams.size() ||
      !span_within(offset, out.size(), header_.streams[stream_index].opaque_size)) {
    return argument_error("no such bytes of an opaque stream");
  }
  std::uint64_t at = 0;
  for (std::uint32_t index : chunks(stream_index)) {
    const std::uint64_t size = frames_[index].decoded_size;
    const std::uint64_t first = std::max(at, offset);
    const std::uint64_t end = std::min(at + size, offset + out.size());
    if (first < end) {
      auto piece = read_section(index);
      if (!piece) return piece.error();
      std::memcpy(out.data() + (first - offset), piece->data() + (first - at), end - first);
    }
    at += size;
  }
  return {};
}

}  // namespace cachecard
