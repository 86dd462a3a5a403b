#include "reader/key_turn.hpp"

#include <algorithm>
#include <limits>

#include "kernel/planes.hpp"

namespace cachecard {
namespace {

bool has_turns(const StreamRecord& stream, std::int64_t shift) {
  const auto kind = static_cast<StreamKind>(stream.stream);
  if (kind != StreamKind::kKey && kind != StreamKind::kLatent) return false;
  const auto state = static_cast<RopeState>(stream.rope_state);
  return state == RopeState::kPreRope || (state == RopeState::kPostRope && shift != 0);
}

Status check_range(std::span<const std::int32_t> positions, std::int64_t shift) {
  using Limits = std::numeric_limits<std::int32_t>;
  const auto [first, last] = std::minmax_element(positions.begin(), positions.end());
  const bool fits = positions.empty() || (shift >= Limits::min() && shift <= Limits::max() &&
                                          *first + shift >= Limits::min() && *last + shift <= Limits::max());
  if (fits) return {};
  return Error{ErrorCode::kInvalidArgument, kNoOffset, "rope_shift",
               std::to_string(shift) + " moves tokens out of the range of positions"};
}

}  // namespace

Result<std::optional<KeyTurn>> KeyTurn::make(const CardReader& card, const StreamRecord& stream,
                                             std::int64_t shift) {
  if (!has_turns(stream, shift)) return std::optional<KeyTurn>();
  const auto frame = card.find(SectionType::kRopeTable);
  if (!frame) {
    return Error{ErrorCode::kNotRestorable, kNoOffset, "rope_table",
                 "keys turn to other positions only through a RoPE table, which the card lacks"};
  }
  auto payload = card.read_section(*frame);
  if (!payload) return payload.error();
  auto table = parse_rope_table(*payload);
  if (!table) return table.error();
  const std::uint64_t end = std::uint64_t{table->record.rotated_offset} + table->record.rotated_width;
  if (end > stream.head_dim) {
    return Error{ErrorCode::kGeometryMismatch, kNoOffset, "rope_table.rotated_width",
                 "channels up to " + std::to_string(end) + " of heads of " + std::to_string(stream.head_dim)};
  }
  auto runs = card.positions();
  if (!runs) return runs.error();
  KeyTurn turn;
  turn.table_ = *std::move(table);
  turn.stream_ = stream;
  turn.shift_ = shift;
  turn.positions_ = expand_positions(*runs);
  if (Status s = check_range(turn.positions_, shift); !s) return s.error();
  if (static_cast<RopeState>(stream.rope_state) == RopeState::kPostRope) {
    turn.constant_.resize(turn.angle_count());
    const auto by = static_cast<std::int32_t>(shift);
    // The magnitude is in the keys.
    kernel::planes_kernels().rope_angles({&by, 1}, turn.table_.inverse_frequencies, 1.0,
                                         turn.constant_.data());
  }
  return std::optional<KeyTurn>(std::move(turn));
}

void KeyTurn::turn_head(std::span<const float> angles, float* head) const {
  float* rotated = head + table_.record.rotated_offset;
  const bool half = static_cast<RopePairing>(table_.record.pairing) == RopePairing::kHalfSplit;
  const std::size_t distance = half ? table_.record.rotated_width / 2 : 1;
  for (std::size_t i = 0; i < angles.size() / 2; ++i) {
    float* first = rotated + (half ? i : 2 * i);
    const float x = first[0];
    const float y = first[distance];
    first[0] = x * angles[2 * i] - y * angles[2 * i + 1];
    first[distance] = y * angles[2 * i] + x * angles[2 * i + 1];
  }
}

void KeyTurn::apply(std::uint64_t token, std::span<float> row, std::span<float> angles) const {
  std::span<const float> used = constant_;
  if (used.empty()) {
    const auto position = static_cast<std::int32_t>(positions_[token] + shift_);
    kernel::planes_kernels().rope_angles({&position, 1}, table_.inverse_frequencies, table_.record.magnitude,
                                         angles.data());
    used = angles.first(angle_count());
  }
  for (std::uint32_t head = 0; head < stream_.kv_head_count; ++head) {
    turn_head(used, row.data() + std::size_t{head} * stream_.head_dim);
  }
}

}  // namespace cachecard
