#include "allocate/key_rows.hpp"

#include <cmath>

namespace cachecard {
namespace {

/// {x, y} turned by {cos, sin}, pair by pair.
void turn(const float* angles, std::size_t pairs, float* head) {
  for (std::size_t i = 0; i < pairs; ++i) {
    const float x = head[2 * i];
    const float y = head[2 * i + 1];
    const float c = angles[2 * i];
    const float s = angles[2 * i + 1];
    head[2 * i] = x * c - y * s;
    head[2 * i + 1] = y * c + x * s;
  }
}

}  // namespace

bool is_weighed(const StreamRecord& stream) {
  const auto kind = static_cast<StreamKind>(stream.stream);
  const auto dtype = static_cast<DType>(stream.dtype);
  return (kind == StreamKind::kKey || kind == StreamKind::kValue) && stream.hadamard_size == 1 &&
         (dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBf16);
}

KeyRows::KeyRows(const CacheSource& source, std::size_t stream)
    : KeyRows(source, stream, {0, source.header().streams[stream].kv_head_count}) {}

KeyRows::KeyRows(const CacheSource& source, std::size_t stream, HeadSpan heads)
    : source_(source), stream_(source.header().streams[stream]), index_(stream), heads_(heads) {
  const RopeTable* table = source.rope_table();
  can_turn_ = table != nullptr && stream_.stream == static_cast<std::uint8_t>(StreamKind::kKey) &&
              stream_.part_count == 0 && stream_.rope_pairing == table->record.pairing &&
              stream_.rope_state != static_cast<std::uint8_t>(RopeState::kNone) &&
              std::uint64_t{table->record.rotated_offset} + table->record.rotated_width <= stream_.head_dim;
  if (!can_turn_) {
    groups_ = {stream_.head_dim};
    return;
  }
  groups_ = {table->record.rotated_width};
  if (table->record.rotated_width < stream_.head_dim) groups_.push_back(stream_.head_dim - table->record.rotated_width);
  for (std::size_t i = 0; i < table->inverse_frequencies.size(); ++i) identity_.insert(identity_.end(), {1.0f, 0.0f});
}

std::shared_ptr<const Angles> KeyRows::angles(std::span<const std::int32_t> positions) const {
  const RopeTable& table = *source_.rope_table();
  auto angles = std::make_shared<Angles>(positions.size() * table.inverse_frequencies.size() * 2);
  kernel::planes_kernels().rope_angles(positions, table.inverse_frequencies, table.record.magnitude, angles->data());
  return angles;
}

Status KeyRows::read(std::uint64_t first, std::uint64_t count, bool embedded, std::span<float> out) {
  const auto dtype = static_cast<DType>(stream_.dtype);
  const std::size_t row_size = row_bytes(stream_, dtype);
  rows_.resize(count * row_size);
  if (Status s = source_.read_rows(index_, first, count, rows_); !s) return s;
  kernel::PlanesShape shape;
  shape.head_count = heads_.count;
  shape.head_dim = stream_.head_dim;
  shape.group_widths = groups_;
  const bool post = stream_.rope_state == static_cast<std::uint8_t>(RopeState::kPostRope);
  std::shared_ptr<const Angles> turns;
  float gain = 1.0f;
  if (can_turn_) {
    const RopeTableHeader& table = source_.rope_table()->record;
    shape.pairing = static_cast<RopePairing>(table.pairing);
    shape.rotated_offset = table.rotated_offset;
    shape.rotated_width = table.rotated_width;
    if (post != embedded) turns = angles(source_.positions().subspan(first, count));
    if (post && !embedded) gain = static_cast<float>(1.0 / (table.magnitude * table.magnitude));
  }
  const std::size_t stride = identity_.size();
  const std::size_t before = row_size / stream_.kv_head_count * heads_.first;
  for (std::uint64_t t = 0; t < count; ++t) {
    const float* unturned = !can_turn_ ? nullptr : (post && !embedded) ? turns->data() + t * stride : identity_.data();
    const kernel::PlanesInput input{rows_.data() + t * row_size + before, dtype, nullptr, unturned, gain};
    float* row = out.data() + t * width();
    kernel::planes_kernels().to_card_order(shape, input, row);
    if (!can_turn_ || post || !embedded) continue;
    for (std::uint32_t h = 0; h < heads_.count; ++h) turn(turns->data() + t * stride, stride / 2, row + h * stream_.head_dim);
  }
  return {};
}

void KeyRows::embed(std::int32_t position, std::span<float> row) {
  if (!can_turn_) return;
  const auto turns = angles(std::span(&position, 1));
  for (std::size_t at = 0; at < row.size(); at += stream_.head_dim) turn(turns->data(), turns->size() / 2, row.data() + at);
}

}  // namespace cachecard
