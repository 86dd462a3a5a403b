#include "reader/pair_order.hpp"

#include <cstring>

namespace cachecard {
namespace {

struct RotatedSpan {
  std::uint32_t offset = 0;
  std::uint32_t width = 0;
};

Result<RotatedSpan> rotated_span(const CardReader& card, const StreamRecord& stream) {
  const CardHeader& header = card.header();
  for (std::uint32_t i = 0; i < stream.part_count; ++i) {
    const PartRecord& part = header.parts[stream.part_first + i];
    if (part.rotated == 1) return RotatedSpan{part.offset, part.width};
  }
  if (const auto frame = card.find(SectionType::kRopeTable)) {
    auto payload = card.read_section(*frame);
    if (!payload) return payload.error();
    auto table = parse_rope_table(*payload);
    if (!table) return table.error();
    const std::uint64_t end = std::uint64_t{table->record.rotated_offset} + table->record.rotated_width;
    if (end <= stream.head_dim) return RotatedSpan{table->record.rotated_offset, table->record.rotated_width};
  }
  const auto count = header.identity.u64(IdentityField::kRopeDimensionCount);
  if (count && *count <= stream.head_dim && *count % 2 == 0) {
    return RotatedSpan{0, static_cast<std::uint32_t>(*count)};
  }
  return Error{ErrorCode::kIdentityUnknown, kNoOffset, "identity.rope_dimension_count",
               "the card does not say how many channels rotate, so their order cannot be changed"};
}

/// Channels of one head, side by side: their own loops, which become vector code.
template <class T>
void reorder_head(bool to_halves, std::size_t pair_count, std::byte* head, std::byte* scratch) {
  const std::size_t size = 2 * pair_count * sizeof(T);
  auto* before = reinterpret_cast<T*>(scratch);
  T* after = before + 2 * pair_count;
  std::memcpy(before, head, size);
  if (to_halves) {
    for (std::size_t i = 0; i < pair_count; ++i) {
      after[i] = before[2 * i];
      after[pair_count + i] = before[2 * i + 1];
    }
  } else {
    for (std::size_t i = 0; i < pair_count; ++i) {
      after[2 * i] = before[i];
      after[2 * i + 1] = before[pair_count + i];
    }
  }
  std::memcpy(head, after, size);
}

std::uint32_t place(RopePairing order, std::uint32_t width, std::uint32_t pair, std::uint32_t member) {
  return order == RopePairing::kInterleaved ? 2 * pair + member : member * (width / 2) + pair;
}

}  // namespace

Result<std::optional<PairOrder>> PairOrder::make(const CardReader& card, const StreamRecord& stream,
                                                 RopePairing wanted) {
  const auto held = static_cast<RopePairing>(stream.rope_pairing);
  if (wanted == RopePairing::kNone || held == RopePairing::kNone || held == wanted) return std::optional<PairOrder>();
  auto span = rotated_span(card, stream);
  if (!span) return span.error();
  PairOrder order;
  order.head_count_ = stream.kv_head_count;
  order.offset_ = span->offset;
  const std::uint32_t width = span->width - span->width % 2;
  order.to_halves_ = wanted == RopePairing::kHalfSplit;
  order.channels_.resize(width);
  for (std::uint32_t pair = 0; pair < width / 2; ++pair) {
    for (const std::uint32_t member : {0u, 1u}) {
      order.channels_[place(wanted, width, pair, member)] = place(held, width, pair, member);
    }
  }
  return std::optional<PairOrder>(std::move(order));
}

void PairOrder::apply(std::byte* token, const DecodeTarget& target, std::span<std::byte> before) const {
  const std::size_t size = dtype_info(target.dtype)->block_bytes;
  for (std::uint32_t head = 0; head < head_count_; ++head) {
    std::byte* first = token + static_cast<std::int64_t>(head) * target.head_stride +
                       static_cast<std::int64_t>(offset_) * target.channel_stride;
    if (target.channel_stride == static_cast<std::int64_t>(size)) {
      const auto reorder = size == sizeof(float) ? reorder_head<std::uint32_t> : reorder_head<std::uint16_t>;
      reorder(to_halves_, channels_.size() / 2, first, before.data());
      continue;
    }
    const auto at = [&](std::size_t c) { return first + static_cast<std::int64_t>(c) * target.channel_stride; };
    for (std::size_t c = 0; c < channels_.size(); ++c) std::memcpy(before.data() + c * size, at(c), size);
    for (std::size_t c = 0; c < channels_.size(); ++c) {
      std::memcpy(at(c), before.data() + channels_[c] * size, size);
    }
  }
}

}  // namespace cachecard
