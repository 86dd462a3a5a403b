#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <numeric>

#include "base/checked.hpp"
#include "base/scratch.hpp"
#include "cachecard/reader.hpp"
#include "format/record_check.hpp"
#include "kernel/floats.hpp"
#include "kernel/ggml_blocks.hpp"
#include "reader/chunk_rows.hpp"
#include "reader/key_turn.hpp"
#include "reader/pair_order.hpp"

namespace cachecard {
namespace {

Error argument_error(std::string detail) {
  return {ErrorCode::kInvalidArgument, kNoOffset, {}, std::move(detail)};
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
  const Allocator& allocator;
  const StreamRecord& stream;
  std::span<const std::uint32_t> chunks;  ///< those that the request touches
  const KeyTurn* turn = nullptr;
  const PairOrder* order = nullptr;
  std::mutex mutex;
  Status status;

  void run(std::size_t index);
  Status decode(const FrameHeader& frame) const;
  Status put(const FrameHeader& frame, const Overlap& span) const;
  Status reorder(const Overlap& span) const;
  bool takes_heads() const;
  Status put_heads(const ChunkRows& rows, const FrameHeader& frame, const Overlap& span) const;
  void decode_row(const ChunkRows& rows, std::uint64_t row, std::byte* base, std::span<float> values) const;
  void decode_turned(const ChunkRows& rows, std::uint64_t row, std::uint64_t token, std::byte* base,
                     std::span<float> values) const;
};

void DecodeJob::run(std::size_t index) {
  const Status decoded = decode(card.frames()[chunks[index]]);
  if (decoded) return;
  const std::scoped_lock lock(mutex);
  if (status) status = decoded;
}

void DecodeJob::decode_row(const ChunkRows& rows, std::uint64_t row, std::byte* base, std::span<float> values) const {
  const auto dtype = static_cast<DType>(stream.dtype);
  const std::uint32_t rotation = request.keep_rotation ? 1 : stream.hadamard_size;
  if (dtype == target.dtype && rotation == 1) return copy_row(stream, rows.row(row), target, base);
  kernel::to_f32(dtype, rows.row(row), values);
  if (rotation > 1) kernel::hadamard(values, rotation);
  store_row(stream, values, target, base);
}

/// Whether the target takes the stream's own values, head by head.
bool DecodeJob::takes_heads() const {
  const auto element = static_cast<std::int64_t>(dtype_info(target.dtype)->block_bytes);
  return static_cast<DType>(stream.dtype) == target.dtype && target.channel_stride == element &&
         (request.keep_rotation || stream.hadamard_size == 1);
}

/// Runs of rows that lie token_stride apart: all of them, or those of one page.
Status DecodeJob::put_heads(const ChunkRows& rows, const FrameHeader& frame, const Overlap& span) const {
  for (std::uint64_t t = span.first; t < span.end;) {
    const std::uint64_t token = t - request.first_token;
    std::uint64_t count = span.end - t;
    if (target.blocks != nullptr) count = std::min(count, target.blocks->page_size - token % target.blocks->page_size);
    rows.put_heads(t - frame.first_token, count, {token_base(target, token), target.head_stride, target.dtype},
                   target.token_stride);
    t += count;
  }
  return {};
}

/// values: a row, then the angles of one token.
void DecodeJob::decode_turned(const ChunkRows& rows, std::uint64_t row, std::uint64_t token, std::byte* base,
                              std::span<float> values) const {
  const auto plain = values.first(row_elements(stream));
  if (!rows.put_turned(row, plain)) {
    kernel::to_f32(static_cast<DType>(stream.dtype), rows.row(row), plain);
    if (stream.hadamard_size > 1) kernel::hadamard(plain, stream.hadamard_size);
    turn->apply(token, plain, values.subspan(plain.size()));
  }
  store_row(stream, plain, target, base);
}

Status DecodeJob::decode(const FrameHeader& frame) const {
  const Overlap span = overlap(frame, request.first_token, request.token_count);
  if (span.first >= span.end) return {};
  if (Status s = put(frame, span); !s || order == nullptr) return s;
  return reorder(span);
}

/// The tokens were just put where they belong: still in the cache.
Status DecodeJob::reorder(const Overlap& span) const {
  auto scratch = Scratch::allocate(allocator, align64(order->scratch_bytes()));
  if (!scratch) return scratch.error();
  for (std::uint64_t t = span.first; t < span.end; ++t) {
    order->apply(token_base(target, t - request.first_token), target, scratch->bytes());
  }
  return {};
}

Status DecodeJob::put(const FrameHeader& frame, const Overlap& span) const {
  const std::size_t angle_count = turn == nullptr ? 0 : turn->angle_count();
  const std::size_t values_size = align64((row_elements(stream) + angle_count) * sizeof(float));
  auto scratch = Scratch::allocate(allocator, values_size + chunk_scratch(stream, frame));
  if (!scratch) return scratch.error();
  const auto memory = scratch->bytes();
  const std::span<float> values(reinterpret_cast<float*>(memory.data()), row_elements(stream) + angle_count);
  auto rows = ChunkRows::open(card, frame, memory.subspan(values_size), turn == nullptr ? 0 : turn->shift());
  if (!rows) return rows.error();
  if (turn == nullptr && takes_heads()) return put_heads(*rows, frame, span);
  for (std::uint64_t t = span.first; t < span.end; ++t) {
    if (turn != nullptr) {
      decode_turned(*rows, t - frame.first_token, t, token_base(target, t - request.first_token), values);
      continue;
    }
    decode_row(*rows, t - frame.first_token, token_base(target, t - request.first_token), values);
  }
  return {};
}

/// Chunks that hold tokens of the request; they are ascending and leave no gap.
std::span<const std::uint32_t> touched_chunks(const CardReader& card, const DecodeRequest& request) {
  const auto chunks = card.chunks(request.stream);
  if (request.token_count == 0) return {};
  const auto first_token = [&](std::uint32_t frame) { return card.frames()[frame].first_token; };
  const auto first = std::upper_bound(chunks.begin(), chunks.end(), request.first_token,
                                      [&](std::uint64_t token, auto f) { return token < first_token(f); });
  const auto end = std::lower_bound(chunks.begin(), chunks.end(), request.first_token + request.token_count,
                                    [&](auto f, std::uint64_t token) { return first_token(f) < token; });
  return {first - 1, end};
}

}  // namespace

std::size_t CardReader::scratch_bytes(std::size_t stream_index) const {
  std::size_t most = 0;
  for (std::uint32_t frame : chunks(stream_index)) {
    most = std::max(most, chunk_scratch(header_.streams[stream_index], frames_[frame]));
  }
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
    const bool verbatim = frame.compressor == 0 && frame.codec != static_cast<std::uint8_t>(Codec::kPlanes) &&
                          frame.codec != static_cast<std::uint8_t>(Codec::kEntropy);
    if (verbatim && place.size() == frame.stored_size) {
      if (Status s = read_stored(index, place); !s) return s;
      continue;
    }
    auto rows = ChunkRows::open(*this, frame, scratch);
    if (!rows) return rows.error();
    rows->put_rows(span.first - frame.first_token, span.end - span.first, place);
  }
  return {};
}

Status CardReader::decode(const DecodeRequest& request, const DecodeTarget& target, const ParallelFor& parallel,
                          const Allocator& allocator) const {
  if (Status s = check_request(header_, request.stream, request.first_token, request.token_count); !s) {
    return s;
  }
  if (Status s = check_target(request, target); !s) return s;
  const StreamRecord& stream = header_.streams[request.stream];
  std::optional<KeyTurn> turn;
  if (request.rope_shift) {
    auto made = KeyTurn::make(*this, stream, *request.rope_shift);
    if (!made) return made.error();
    turn = *std::move(made);
  }
  auto order = PairOrder::make(*this, stream, request.rope_pairing);
  if (!order) return order.error();
  if (*order && request.keep_rotation && stream.hadamard_size > 1) {
    return argument_error("rotated values have no RoPE pairs to reorder: leave keep_rotation out");
  }
  DecodeJob job{*this,
                request,
                target,
                allocator,
                stream,
                touched_chunks(*this, request),
                turn ? &*turn : nullptr,
                *order ? &**order : nullptr,
                {},
                {}};
  parallel(
      job.chunks.size(),
      [](void* context, std::size_t index) { static_cast<DecodeJob*>(context)->run(index); }, &job);
  return job.status;
}

Result<double> CardReader::squared_error_bound(std::size_t index) const {
  const FrameHeader& frame = frames_[index];
  if (frame.codec != static_cast<std::uint8_t>(Codec::kPlanes) &&
      frame.codec != static_cast<std::uint8_t>(Codec::kEntropy)) {
    return 0.0;
  }
  const auto stream = *header_.stream_index(frame.layer, static_cast<StreamKind>(frame.stream));
  std::vector<std::byte> scratch(chunk_scratch(header_.streams[stream], frame));
  auto rows = ChunkRows::open(*this, frame, scratch);
  if (!rows) return rows.error();
  std::vector<double> bounds(frame.token_count);
  rows->add_squared_bounds(bounds);
  return std::accumulate(bounds.begin(), bounds.end(), 0.0);
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
