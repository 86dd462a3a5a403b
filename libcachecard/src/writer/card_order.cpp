#include "writer/card_order.hpp"

#include <algorithm>
#include <cmath>

#include "kernel/ggml_blocks.hpp"

namespace cachecard {
namespace {

bool can_remove_rope(const CacheSource& source, const CardHeader& header, const StreamRecord& stream) {
  const RopeTable* table = source.rope_table();
  if (table == nullptr || stream.hadamard_size != 1 || is_value_stream(stream) ||
      stream.rope_state != static_cast<std::uint8_t>(RopeState::kPostRope) ||
      stream.rope_pairing != table->record.pairing ||
      std::uint64_t{table->record.rotated_offset} + table->record.rotated_width > stream.head_dim) {
    return false;
  }
  if (stream.part_count == 0) return true;
  const auto parts = std::span(header.parts).subspan(stream.part_first, stream.part_count);
  return std::any_of(parts.begin(), parts.end(), [&](const PartRecord& part) {
    return part.rotated == 1 && part.offset == table->record.rotated_offset &&
           part.width == table->record.rotated_width;
  });
}

}  // namespace

bool is_float_stream(const StreamRecord& stream) {
  const auto dtype = static_cast<DType>(stream.dtype);
  return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBf16;
}

bool is_value_stream(const StreamRecord& stream) {
  return stream.stream == static_cast<std::uint8_t>(StreamKind::kValue);
}

double float_value_count(const CardHeader& header) {
  double values = 0.0;
  for (const StreamRecord& stream : header.streams) {
    if (is_float_stream(stream)) values += static_cast<double>(stream.token_count) * static_cast<double>(row_elements(stream));
  }
  return values;
}

Parameters card_order_parameters(const CacheSource& source, const CardHeader& header, const StreamRecord& stream,
                                 Codec codec, std::uint64_t rope_table_digest, std::uint64_t positions_digest) {
  Parameters parameters;
  parameters.record.codec = static_cast<std::uint8_t>(codec);
  const bool removed = rope_table_digest != 0 && can_remove_rope(source, header, stream);
  if (removed) {
    parameters.record.rope_removed = 1;
    parameters.record.rope_table_digest = rope_table_digest;
    parameters.record.positions_digest = positions_digest;
  }
  const auto parts = std::span(header.parts).subspan(stream.part_first, stream.part_count);
  parameters.parts.assign(parts.begin(), parts.end());
  if (removed) {
    std::stable_sort(parameters.parts.begin(), parameters.parts.end(),
                     [](const PartRecord& a, const PartRecord& b) { return a.rotated > b.rotated; });
  }
  std::uint32_t at = 0;
  for (PartRecord& part : parameters.parts) {
    part.offset = at;
    at += part.width;
  }
  return parameters;
}

Error nonfinite_error(std::string_view codec, const StreamRecord& stream, std::uint64_t token,
                      std::span<const std::byte> row) {
  std::vector<float> values(row_elements(stream));
  kernel::to_f32(static_cast<DType>(stream.dtype), row, values);
  const auto at = std::find_if(values.begin(), values.end(), [](float v) { return !std::isfinite(v); });
  // Values that are finite may leave f32 when they are rotated: then the row as a whole is named.
  const auto head = at == values.end() ? 0 : static_cast<std::uint64_t>(at - values.begin()) / stream.head_dim;
  return {ErrorCode::kNonFinite, kNoOffset, std::string(codec),
          "layer " + std::to_string(stream.layer) + " " + std::string(name_of(static_cast<StreamKind>(stream.stream))) +
              ", head " + std::to_string(head) + ", token " + std::to_string(token) +
              ": found a NaN or an infinity, allowed finite values"};
}

}  // namespace cachecard
