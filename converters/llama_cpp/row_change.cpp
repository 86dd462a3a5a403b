#include "row_change.hpp"

#include <cmath>

#include "block_encoder.hpp"
#include "float_types.hpp"

namespace cachecard::llama_cpp {
namespace {

bool is_float(DType dtype) { return dtype_info(dtype)->block_elements == 1; }

bool is_key(const StreamRecord& stream) {
  return stream.stream == static_cast<std::uint8_t>(StreamKind::kKey) ||
         stream.stream == static_cast<std::uint8_t>(StreamKind::kLatent);
}

bool turned(const StreamRecord& stream, const RowForm& form) {
  return form.turn != nullptr && form.turn->turns(stream);
}

/// A span of rows of one stream.
struct RowSpan {
  std::size_t stream = 0;
  std::uint64_t first_token = 0;
  std::uint64_t token_count = 0;
};

/// Rows as the card holds them, in out or in a buffer.
Result<std::span<const std::byte>> stored_rows(const CardReader& card, const RowSpan& span,
                                               RowBuffers& buffers, std::span<std::byte> out = {}) {
  const StreamRecord& stream = card.header().streams[span.stream];
  const std::uint64_t size = span.token_count * row_bytes(stream, static_cast<DType>(stream.dtype));
  const auto rows = out.empty() ? buffers.rows.get(size) : out;
  auto status = card.read_rows(span.stream, span.first_token, span.token_count, rows,
                               buffers.scratch.get(card.scratch_bytes(span.stream)));
  if (!status) return status.error();
  return std::span<const std::byte>(rows);
}

/// Unrotated values. Float rows without rotation take the short way.
Result<std::span<float>> plain_values(const CardReader& card, const RowSpan& span, RowBuffers& buffers) {
  const StreamRecord& stream = card.header().streams[span.stream];
  const auto dtype = static_cast<DType>(stream.dtype);
  const std::size_t count = span.token_count * row_elements(stream);
  const auto bytes = buffers.values.get(count * sizeof(float));
  if (is_float(dtype) && stream.hadamard_size == 1) {
    auto rows = stored_rows(card, span, buffers);
    if (!rows) return rows.error();
    convert_floats(dtype, DType::kF32, *rows, bytes);
  } else {
    DecodeTarget target;
    target.base = bytes.data();
    target.channel_stride = sizeof(float);
    target.head_stride = static_cast<std::int64_t>(stream.head_dim * sizeof(float));
    target.token_stride = static_cast<std::int64_t>(row_elements(stream) * sizeof(float));
    auto status = card.decode({span.stream, span.first_token, span.token_count, false}, target);
    if (!status) return status.error();
  }
  return std::span<float>(reinterpret_cast<float*>(bytes.data()), count);
}

}  // namespace

Result<KeyTurn> KeyTurn::make(const CardReader& card, std::int64_t shift) {
  const auto frame = card.find(SectionType::kRopeTable);
  if (!frame) {
    return Error{ErrorCode::kNotRestorable, kNoOffset, "rope_table",
                 "keys turn to other positions only through a RoPE table, which the card lacks"};
  }
  auto payload = card.read_section(*frame);
  if (!payload) return payload.error();
  auto table = parse_rope_table(*payload);
  if (!table) return table.error();
  auto runs = card.positions();
  if (!runs) return runs.error();
  KeyTurn turn;
  turn.table_ = *std::move(table);
  turn.shift_ = shift;
  turn.positions_ = expand_positions(*runs);
  const std::uint64_t end =
      std::uint64_t{turn.table_.record.rotated_offset} + turn.table_.record.rotated_width;
  for (const StreamRecord& stream : card.header().streams) {
    if (!turn.turns(stream) || end <= stream.head_dim) continue;
    return Error{ErrorCode::kGeometryMismatch, kNoOffset, "rope_table.rotated_width",
                 "channels up to " + std::to_string(end) + " of heads of " + std::to_string(stream.head_dim)};
  }
  return turn;
}

bool KeyTurn::turns(const StreamRecord& stream) const {
  if (!is_key(stream)) return false;
  const auto state = static_cast<RopeState>(stream.rope_state);
  return state == RopeState::kPreRope || (state == RopeState::kPostRope && shift_ != 0);
}

void KeyTurn::fill(double position, double magnitude, std::vector<Angle>& out) const {
  out.clear();
  for (const double frequency : table_.inverse_frequencies) {
    const double angle = position * frequency;
    out.push_back(
        {static_cast<float>(std::cos(angle) * magnitude), static_cast<float>(std::sin(angle) * magnitude)});
  }
}

void KeyTurn::turn_head(const std::vector<Angle>& angles, float* head) const {
  float* rotated = head + table_.record.rotated_offset;
  const bool half = static_cast<RopePairing>(table_.record.pairing) == RopePairing::kHalfSplit;
  const std::size_t distance = half ? table_.record.rotated_width / 2 : 1;
  for (std::size_t i = 0; i < angles.size(); ++i) {
    float& first = rotated[half ? i : 2 * i];
    float& second = (&first)[distance];
    const float x = first;
    const float y = second;
    first = x * angles[i].cosine - y * angles[i].sine;
    second = y * angles[i].cosine + x * angles[i].sine;
  }
}

void KeyTurn::apply(const StreamRecord& stream, std::uint64_t first_token, std::span<float> rows) const {
  const bool bare = static_cast<RopeState>(stream.rope_state) == RopeState::kPreRope;
  std::vector<Angle> angles;
  angles.reserve(table_.inverse_frequencies.size());
  if (!bare) fill(static_cast<double>(shift_), 1.0, angles);  // the magnitude is in the keys
  const std::uint64_t width = row_elements(stream);
  for (std::uint64_t token = 0; token * width < rows.size(); ++token) {
    if (bare) {
      const auto position = positions_[first_token + token] + shift_;
      fill(static_cast<double>(position), table_.record.magnitude, angles);
    }
    for (std::uint32_t head = 0; head < stream.kv_head_count; ++head) {
      turn_head(angles, rows.data() + token * width + std::uint64_t{head} * stream.head_dim);
    }
  }
}

bool changes_rows(const StreamRecord& stream, const RowForm& form) {
  return static_cast<DType>(stream.dtype) != form.dtype || stream.hadamard_size != form.hadamard_size ||
         turned(stream, form);
}

Result<ChangedRows> changed_rows(const CardReader& card, std::size_t stream_index, std::uint64_t first_token,
                                 std::uint64_t token_count, const RowForm& form, RowBuffers& buffers) {
  const StreamRecord& stream = card.header().streams[stream_index];
  const RowSpan span{stream_index, first_token, token_count};
  const auto dtype = static_cast<DType>(stream.dtype);
  ChangedRows result;
  if (!changes_rows(stream, form)) {
    auto rows = stored_rows(card, span, buffers, buffers.out);
    if (!rows) return rows.error();
    result.bytes = *rows;
    return result;
  }
  const auto out =
      buffers.out.empty() ? buffers.converted.get(token_count * row_bytes(stream, form.dtype)) : buffers.out;
  result.bytes = out;
  const bool floats = is_float(dtype) && is_float(form.dtype) && stream.hadamard_size == form.hadamard_size;
  if (floats && !turned(stream, form)) {
    auto rows = stored_rows(card, span, buffers);
    if (!rows) return rows.error();
    result.loss = convert_floats(dtype, form.dtype, *rows, out);
    return result;
  }
  auto values = plain_values(card, span, buffers);
  if (!values) return values.error();
  if (!is_float(form.dtype)) result.nonfinite_values = count_nonfinite(DType::kF32, std::as_bytes(*values));
  if (result.nonfinite_values != 0) return result;
  if (turned(stream, form)) form.turn->apply(stream, first_token, *values);
  if (form.hadamard_size > 1) rotate_groups(*values, form.hadamard_size);
  result.loss = is_float(form.dtype) ? convert_floats(DType::kF32, form.dtype, std::as_bytes(*values), out)
                                     : encode_blocks(form.dtype, *values, out);
  return result;
}

}  // namespace cachecard::llama_cpp
