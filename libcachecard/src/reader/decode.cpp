#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>

#include "base/checked.hpp"
#include "base/scratch.hpp"
#include "cachecard/reader.hpp"
#include "format/record_check.hpp"
#include "kernel/floats.hpp"
#include "kernel/ggml_blocks.hpp"
#include "reader/chunk_rows.hpp"
#include "reader/key_turn.hpp"
#include "reader/pair_order.hpp"
#include "reader/row_request.hpp"

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
  void put(const ChunkRows& rows, const FrameHeader& frame, const Overlap& span, std::span<float> values) const;
  void reorder(const Overlap& span, std::span<std::byte> scratch) const;
  Status check_finite(const ChunkRows& rows, const FrameHeader& frame, const Overlap& span) const;
  std::uint64_t nonfinite_of_token(std::uint64_t token) const;
  bool heads_are_finite(const Overlap& span) const;
  bool takes_heads() const;
  void put_heads(const ChunkRows& rows, const FrameHeader& frame, const Overlap& span) const;
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
void DecodeJob::put_heads(const ChunkRows& rows, const FrameHeader& frame, const Overlap& span) const {
  for (std::uint64_t t = span.first; t < span.end;) {
    const std::uint64_t token = t - request.first_token;
    std::uint64_t count = span.end - t;
    if (target.blocks != nullptr) count = std::min(count, target.blocks->page_size - token % target.blocks->page_size);
    rows.put_heads(t - frame.first_token, count, {token_base(target, token), target.head_stride, target.dtype},
                   target.token_stride);
    t += count;
  }
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
  const std::size_t angle_count = turn == nullptr ? 0 : turn->angle_count();
  const std::size_t values_size = align64((row_elements(stream) + angle_count) * sizeof(float));
  const std::size_t order_size = order == nullptr ? 0 : align64(order->scratch_bytes());
  auto scratch = Scratch::allocate(allocator, values_size + order_size + chunk_scratch(stream, frame));
  if (!scratch) return scratch.error();
  const auto memory = scratch->bytes();
  const std::span<float> values(reinterpret_cast<float*>(memory.data()), row_elements(stream) + angle_count);
  auto rows = ChunkRows::open(card, frame, memory.subspan(values_size + order_size), turn == nullptr ? 0 : turn->shift());
  if (!rows) return rows.error();
  for (std::uint64_t t = span.first; t < span.end; t += kRowsAtOnce) {
    const Overlap part{t, std::min(span.end, t + kRowsAtOnce)};
    put(*rows, frame, part, values);
    if (order != nullptr) reorder(part, memory.subspan(values_size, order_size));
    if (!request.finite) continue;
    if (Status s = check_finite(*rows, frame, part); !s) return s;
  }
  return {};
}

void DecodeJob::reorder(const Overlap& span, std::span<std::byte> scratch) const {
  for (std::uint64_t t = span.first; t < span.end; ++t) {
    order->apply(token_base(target, t - request.first_token), target, scratch);
  }
}

std::uint64_t DecodeJob::nonfinite_of_token(std::uint64_t token) const {
  const auto element = static_cast<std::int64_t>(dtype_info(target.dtype)->block_bytes);
  const std::int64_t head_size = element * stream.head_dim;
  const std::byte* base = token_base(target, token - request.first_token);
  std::uint64_t count = 0;
  for (std::int64_t head = 0; head < std::int64_t{stream.kv_head_count}; ++head) {
    const std::byte* at = base + head * target.head_stride;
    if (target.channel_stride == element) {
      count += count_nonfinite(target.dtype, {at, static_cast<std::size_t>(head_size)});
      continue;
    }
    for (std::int64_t c = 0; c < std::int64_t{stream.head_dim}; ++c) {
      count += count_nonfinite(target.dtype, {at + c * target.channel_stride, static_cast<std::size_t>(element)});
    }
  }
  return count;
}

/// False also where a head's tokens do not lie one behind the other.
bool DecodeJob::heads_are_finite(const Overlap& span) const {
  const auto element = static_cast<std::int64_t>(dtype_info(target.dtype)->block_bytes);
  const std::int64_t head_size = element * stream.head_dim;
  if (target.blocks != nullptr || target.channel_stride != element || target.token_stride != head_size) return false;
  for (std::int64_t head = 0; head < std::int64_t{stream.kv_head_count}; ++head) {
    const std::byte* at = token_base(target, span.first - request.first_token) + head * target.head_stride;
    const std::size_t size = (span.end - span.first) * static_cast<std::size_t>(head_size);
    if (count_nonfinite(target.dtype, {at, size}) != 0) return false;
  }
  return true;
}

Status DecodeJob::check_finite(const ChunkRows& rows, const FrameHeader& frame, const Overlap& span) const {
  const auto sure = [&](std::uint64_t t) { return turn == nullptr && rows.surely_finite(t - frame.first_token, target.dtype); };
  if (!sure(span.first) && !sure(span.end - 1) && heads_are_finite(span)) return {};
  for (std::uint64_t t = span.first; t < span.end; ++t) {
    if (sure(t) || nonfinite_of_token(t) == 0) continue;
    const bool converted = static_cast<DType>(stream.dtype) != target.dtype;
    return Error{ErrorCode::kNonFinite, kNoOffset, "stream",
                 std::string(name_of(static_cast<StreamKind>(stream.stream))) + " of layer " + std::to_string(stream.layer) +
                     ", token " + std::to_string(t) + ": NaN or infinite as " + std::string(name_of(target.dtype)) +
                     (converted ? " (the card has " + std::string(name_of(static_cast<DType>(stream.dtype))) + ")" : "")};
  }
  return {};
}

void DecodeJob::put(const ChunkRows& rows, const FrameHeader& frame, const Overlap& span, std::span<float> values) const {
  if (turn == nullptr && takes_heads()) return put_heads(rows, frame, span);
  for (std::uint64_t t = span.first; t < span.end; ++t) {
    std::byte* base = token_base(target, t - request.first_token);
    if (turn != nullptr) {
      decode_turned(rows, t - frame.first_token, t, base, values);
    } else {
      decode_row(rows, t - frame.first_token, base, values);
    }
  }
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

}  // namespace cachecard
