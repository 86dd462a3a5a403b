#include "row_change.hpp"

#include "block_encoder.hpp"
#include "float_types.hpp"

namespace cachecard::llama_cpp {
namespace {

bool is_float(DType dtype) { return dtype_info(dtype)->block_elements == 1; }

bool is_key(const StreamRecord& stream) {
  return stream.stream == static_cast<std::uint8_t>(StreamKind::kKey) ||
         stream.stream == static_cast<std::uint8_t>(StreamKind::kLatent);
}

/// Whether the target's keys stand at other positions, or the card's without RoPE.
bool turned(const StreamRecord& stream, const RowForm& form) {
  if (!is_key(stream) || !form.rope_shift) return false;
  const auto state = static_cast<RopeState>(stream.rope_state);
  return state == RopeState::kPreRope || (state == RopeState::kPostRope && *form.rope_shift != 0);
}

/// Whether the target pairs other channels.
bool reordered(const StreamRecord& stream, const RowForm& form) {
  const auto held = static_cast<RopePairing>(stream.rope_pairing);
  return is_key(stream) && form.rope_pairing != RopePairing::kNone && held != RopePairing::kNone &&
         held != form.rope_pairing;
}

/// Whether values must be decoded, not only converted.
bool decodes(const StreamRecord& stream, const RowForm& form) {
  return turned(stream, form) || reordered(stream, form);
}

/// A span of rows of one stream.
struct RowSpan {
  std::size_t stream = 0;
  std::uint64_t first_token = 0;
  std::uint64_t token_count = 0;
};

/// Rows as the card holds them, in a buffer.
Result<std::span<const std::byte>> stored_rows(const CardReader& card, const RowSpan& span, RowBuffers& buffers) {
  const StreamRecord& stream = card.header().streams[span.stream];
  const std::uint64_t size = span.token_count * row_bytes(stream, static_cast<DType>(stream.dtype));
  const auto rows = buffers.rows.get(size);
  auto status = card.read_rows(span.stream, span.first_token, span.token_count, rows,
                               buffers.scratch.get(card.scratch_bytes(span.stream)));
  if (!status) return status.error();
  return std::span<const std::byte>(rows);
}

/// Unrotated values. Float rows without rotation take the short way.
Result<std::span<float>> plain_values(const CardReader& card, const RowSpan& span, const RowForm& form,
                                      RowBuffers& buffers) {
  const StreamRecord& stream = card.header().streams[span.stream];
  const auto dtype = static_cast<DType>(stream.dtype);
  const std::size_t count = span.token_count * row_elements(stream);
  const auto bytes = buffers.values.get(count * sizeof(float));
  if (is_float(dtype) && stream.hadamard_size == 1 && !decodes(stream, form)) {
    auto rows = stored_rows(card, span, buffers);
    if (!rows) return rows.error();
    convert_floats(dtype, DType::kF32, *rows, bytes);
  } else {
    DecodeTarget target;
    target.base = bytes.data();
    target.channel_stride = sizeof(float);
    target.head_stride = static_cast<std::int64_t>(stream.head_dim * sizeof(float));
    target.token_stride = static_cast<std::int64_t>(row_elements(stream) * sizeof(float));
    DecodeRequest request{span.stream, span.first_token, span.token_count, false};
    if (turned(stream, form)) request.rope_shift = form.rope_shift;
    request.rope_pairing = form.rope_pairing;
    auto status = card.decode(request, target);
    if (!status) return status.error();
  }
  return std::span<float>(reinterpret_cast<float*>(bytes.data()), count);
}

}  // namespace

bool changes_rows(const StreamRecord& stream, const RowForm& form) {
  return static_cast<DType>(stream.dtype) != form.dtype || stream.hadamard_size != form.hadamard_size ||
         decodes(stream, form);
}

Result<ChangedRows> changed_rows(const CardReader& card, std::size_t stream_index, std::uint64_t first_token,
                                 std::uint64_t token_count, const RowForm& form, RowBuffers& buffers) {
  const StreamRecord& stream = card.header().streams[stream_index];
  const RowSpan span{stream_index, first_token, token_count};
  const auto dtype = static_cast<DType>(stream.dtype);
  ChangedRows result;
  if (!changes_rows(stream, form)) {
    const std::uint64_t size = token_count * row_bytes(stream, dtype);
    const auto rows = buffers.out.empty() ? buffers.rows.get(size) : buffers.out;
    const auto scratch = buffers.scratch.get(card.scratch_bytes(stream_index));
    result.bytes = rows;
    if (!buffers.counts) {
      if (Status s = card.read_rows(stream_index, first_token, token_count, rows, scratch); !s) return s.error();
      return result;
    }
    auto count = card.read_counted_rows(stream_index, first_token, token_count, rows, scratch);
    if (!count) return count.error();
    result.nonfinite_rows = *count;
    return result;
  }
  const auto out =
      buffers.out.empty() ? buffers.converted.get(token_count * row_bytes(stream, form.dtype)) : buffers.out;
  result.bytes = out;
  const bool floats = is_float(dtype) && is_float(form.dtype) && stream.hadamard_size == form.hadamard_size;
  if (floats && !decodes(stream, form)) {
    auto rows = stored_rows(card, span, buffers);
    if (!rows) return rows.error();
    result.loss = convert_floats(dtype, form.dtype, *rows, out);
    return result;
  }
  auto values = plain_values(card, span, form, buffers);
  if (!values) return values.error();
  if (!is_float(form.dtype)) result.nonfinite_values = count_nonfinite(DType::kF32, std::as_bytes(*values));
  if (result.nonfinite_values != 0) return result;
  if (form.hadamard_size > 1) rotate_groups(*values, form.hadamard_size);
  result.loss = is_float(form.dtype) ? convert_floats(DType::kF32, form.dtype, std::as_bytes(*values), out)
                                     : encode_blocks(form.dtype, *values, out);
  return result;
}

}  // namespace cachecard::llama_cpp
