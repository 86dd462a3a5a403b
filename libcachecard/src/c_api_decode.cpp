#include <limits>
#include <mutex>

#include "base/checked.hpp"
#include "c_api_boundary.hpp"
#include "kernel/floats.hpp"
#include "kernel/ggml_blocks.hpp"

/// Decoding into a caller's layout with a caller's memory: CardReader::decode takes no allocator, so this
/// stands on read_rows, which takes its scratch. test_c_api.cpp holds the two to the same bits.

namespace cachecard::c_api {
namespace {

Result<ccd_target> take_target(const ccd_target* given, std::uint64_t token_count) {
  if (given == nullptr) return argument_error("target is NULL");
  auto target = take(given, "ccd_target");
  if (!target) return target;
  if (target->dtype != CCD_DTYPE_F32 && target->dtype != CCD_DTYPE_F16 && target->dtype != CCD_DTYPE_BF16) {
    return argument_error("target.dtype must be f32, f16 or bf16");
  }
  if ((target->flags & ~std::uint32_t{CCD_TARGET_KEEP_ROTATION}) != 0) {
    return argument_error("an unknown target flag");
  }
  if (target->page_size == 0) {
    if (target->base == nullptr && token_count > 0) return argument_error("target.base is NULL");
    return target;
  }
  const std::uint64_t pages =
      token_count / target->page_size + (token_count % target->page_size != 0 ? 1 : 0);
  if (target->page_count < pages) return too_small(target->page_count, pages);
  if (target->pages == nullptr && pages > 0) return argument_error("target.pages is NULL");
  for (std::uint64_t i = 0; i < pages; ++i) {
    if (target->pages[i] == nullptr) return argument_error("target.pages[" + std::to_string(i) + "] is NULL");
  }
  return target;
}

/// Where token t of the request begins.
std::byte* token_base(const ccd_target& target, std::uint64_t t) {
  if (target.page_size == 0) {
    return static_cast<std::byte*>(target.base) + static_cast<std::int64_t>(t) * target.token_stride;
  }
  return static_cast<std::byte*>(target.pages[t / target.page_size]) +
         static_cast<std::int64_t>(t % target.page_size) * target.token_stride;
}

/// Puts one row, already of the target's type, where the strides say.
void scatter_row(const StreamRecord& stream, std::span<const std::byte> row, const ccd_target& target,
                 std::byte* base) {
  const std::size_t size = dtype_info(static_cast<DType>(target.dtype))->block_bytes;
  for (std::uint32_t head = 0; head < stream.kv_head_count; ++head) {
    const std::byte* in = row.data() + std::size_t{head} * stream.head_dim * size;
    std::byte* out = base + static_cast<std::int64_t>(head) * target.head_stride;
    if (target.channel_stride == static_cast<std::int64_t>(size)) {
      std::memcpy(out, in, stream.head_dim * size);
      continue;
    }
    for (std::uint32_t c = 0; c < stream.head_dim; ++c) {
      std::memcpy(out + static_cast<std::int64_t>(c) * target.channel_stride, in + c * size, size);
    }
  }
}

/// Rounds values to the target's type, in place: the result is never longer.
std::span<const std::byte> round_row(std::span<float> values, DType dtype) {
  const auto bytes = std::as_writable_bytes(values);
  if (dtype == DType::kF32) return bytes;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::uint16_t half =
        dtype == DType::kF16 ? kernel::f16_from_f32(values[i]) : kernel::bf16_from_f32(values[i]);
    std::memcpy(bytes.data() + 2 * i, &half, sizeof(half));
  }
  return bytes.first(2 * values.size());
}

/// What the tasks of one decode share; the first error wins.
struct DecodeJob {
  const ccd_card& card;
  const RowSpan& span;
  const ccd_target& target;
  std::span<const std::uint32_t> chunks;  ///< those that the span touches
  std::mutex mutex;
  Status status;

  void run(std::size_t index);
  Status decode(const RowSpan& part) const;
};

void DecodeJob::run(std::size_t index) {
  const FrameHeader& frame = card.reader.frames()[chunks[index]];
  const std::uint64_t first = std::max(frame.first_token, span.first_token);
  const std::uint64_t end =
      std::min(frame.first_token + frame.token_count, span.first_token + span.token_count);
  const Status decoded = decode({span.stream, first, end - first});
  if (decoded) return;
  const std::scoped_lock lock(mutex);
  if (status) status = decoded;
}

Status DecodeJob::decode(const RowSpan& part) const {
  const CardReader& reader = card.reader;
  const StreamRecord& stream = reader.header().streams[part.stream];
  const auto dtype = static_cast<DType>(stream.dtype);
  const std::size_t row_size = row_bytes(stream, dtype);
  const std::size_t rows_size = part.token_count * row_size;
  const std::size_t values_size = align64(row_elements(stream) * sizeof(float));
  auto scratch =
      Scratch::allocate(card.allocator, values_size + align64(rows_size) + reader.scratch_bytes(part.stream));
  if (!scratch) return scratch.error();
  const auto memory = scratch->bytes();
  const std::span<float> values(reinterpret_cast<float*>(memory.data()), row_elements(stream));
  const auto rows = memory.subspan(values_size, rows_size);
  if (Status s = reader.read_rows(part.stream, part.first_token, part.token_count, rows,
                                  memory.subspan(values_size + align64(rows_size)));
      !s) {
    return s;
  }
  const bool keep = (target.flags & CCD_TARGET_KEEP_ROTATION) != 0 || stream.hadamard_size == 1;
  const bool copy = keep && target.dtype == stream.dtype;
  for (std::uint64_t t = 0; t < part.token_count; ++t) {
    const auto row = rows.subspan(t * row_size, row_size);
    std::byte* base = token_base(target, part.first_token + t - span.first_token);
    if (copy) {
      scatter_row(stream, row, target, base);
      continue;
    }
    kernel::to_f32(dtype, row, values);
    if (!keep) kernel::hadamard(values, stream.hadamard_size);
    scatter_row(stream, round_row(values, static_cast<DType>(target.dtype)), target, base);
  }
  return {};
}

/// Chunks of the span; they are ascending and leave no gap.
std::span<const std::uint32_t> touched_chunks(const CardReader& reader, const RowSpan& span) {
  const auto chunks = reader.chunks(span.stream);
  if (span.token_count == 0) return {};
  const auto first_token = [&](std::uint32_t frame) { return reader.frames()[frame].first_token; };
  const auto first = std::upper_bound(chunks.begin(), chunks.end(), span.first_token,
                                      [&](std::uint64_t token, auto f) { return token < first_token(f); });
  const auto end = std::lower_bound(chunks.begin(), chunks.end(), span.first_token + span.token_count,
                                    [&](auto f, std::uint64_t token) { return first_token(f) < token; });
  return {first - 1, end};
}

}  // namespace
}  // namespace cachecard::c_api

using namespace cachecard;
using namespace cachecard::c_api;

ccd_status ccd_card_decode(const ccd_card* card, uint32_t layer, uint32_t stream_kind, uint64_t first_token,
                           uint64_t token_count, const ccd_target* target, ccd_error* error) noexcept {
  return guarded(error, [&]() -> Status {
    auto span = find_rows(card, layer, stream_kind, first_token, token_count);
    if (!span) return span.error();
    auto taken = take_target(target, token_count);
    if (!taken) return taken.error();
    DecodeJob job{*card, *span, *taken, touched_chunks(card->reader, *span), {}, {}};
    GuardedParallel parallel(card->parallel);
    parallel.view()(
        job.chunks.size(), [](void* context, std::size_t i) { static_cast<DecodeJob*>(context)->run(i); },
        &job);
    if (Status s = parallel.status(); !s) return s;
    return job.status;
  });
}

ccd_status ccd_card_read_rows(const ccd_card* card, uint32_t layer, uint32_t stream_kind,
                              uint64_t first_token, uint64_t token_count, void* out, size_t capacity,
                              ccd_error* error) noexcept {
  return guarded(error, [&]() -> Status {
    auto span = find_rows(card, layer, stream_kind, first_token, token_count);
    if (!span) return span.error();
    const StreamRecord& stream = card->reader.header().streams[span->stream];
    const auto size = token_count * row_bytes(stream, static_cast<DType>(stream.dtype));
    if (size == 0) return {};
    if (out == nullptr) return argument_error("out is NULL");
    if (capacity < size) return too_small(capacity, size);
    auto scratch = Scratch::allocate(card->allocator, card->reader.scratch_bytes(span->stream));
    if (!scratch) return scratch.error();
    return card->reader.read_rows(span->stream, first_token, token_count,
                                  {static_cast<std::byte*>(out), size}, scratch->bytes());
  });
}
