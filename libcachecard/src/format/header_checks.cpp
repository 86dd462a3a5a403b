#include "format/header_checks.hpp"

#include <bit>

#include "base/checked.hpp"
#include "format/record_check.hpp"

namespace cachecard {
namespace {

/// Values in a row that a chunk's limit could still hold in f32 (one token in 16 MiB).
constexpr std::uint64_t kMaxRowElements = 1u << 22;

template <class Member>
Error stream_error(ErrorCode code, std::uint64_t at, Member StreamRecord::* member, std::string detail) {
  return field_error(code, at, member, std::move(detail));
}

Status check_enums(const StreamRecord& s, std::uint64_t at) {
  if (s.stream > static_cast<std::uint8_t>(StreamKind::kOpaque)) {
    return stream_error(ErrorCode::kBadEnum, at, &StreamRecord::stream, found_allowed(s.stream, "0 to 3"));
  }
  if (dtype_info(static_cast<DType>(s.dtype)) == nullptr) {
    return stream_error(ErrorCode::kBadEnum, at, &StreamRecord::dtype,
                        found_allowed(s.dtype, "a type of the table"));
  }
  if (s.rope_state > static_cast<std::uint8_t>(RopeState::kPostRope)) {
    return stream_error(ErrorCode::kBadEnum, at, &StreamRecord::rope_state,
                        found_allowed(s.rope_state, "0 to 2"));
  }
  if (s.rope_pairing > static_cast<std::uint8_t>(RopePairing::kHalfSplit)) {
    return stream_error(ErrorCode::kBadEnum, at, &StreamRecord::rope_pairing,
                        found_allowed(s.rope_pairing, "0 to 2"));
  }
  return {};
}

Status check_opaque(const StreamRecord& s, std::uint64_t at) {
  if (s.opaque_size == 0) {
    return stream_error(ErrorCode::kBadSize, at, &StreamRecord::opaque_size, "found 0, allowed above 0");
  }
  const bool shaped = s.kv_head_count != 0 || s.head_dim != 0 || s.part_count != 0 ||
                      s.part_first != 0 || s.token_count != 0 || s.first_token != 0 ||
                      s.hadamard_size != 1 || s.window != 0 || s.rope_state != 0 || s.rope_pairing != 0;
  if (shaped || static_cast<DType>(s.dtype) != DType::kBytes) {
    return stream_error(ErrorCode::kCorrupt, at, &StreamRecord::stream,
                        "an opaque stream has neither shape nor type");
  }
  return {};
}

Status check_shape(const StreamRecord& s, std::uint64_t at, std::uint64_t token_count) {
  const auto dtype = static_cast<DType>(s.dtype);
  if (dtype == DType::kBytes) {
    return stream_error(ErrorCode::kBadEnum, at, &StreamRecord::dtype, "only opaque streams hold bytes");
  }
  if (s.opaque_size != 0) {
    return stream_error(ErrorCode::kBadSize, at, &StreamRecord::opaque_size,
                        found_allowed(s.opaque_size, "0"));
  }
  const std::uint64_t elements = row_elements(s);
  if (elements == 0 || elements > kMaxRowElements) {
    return stream_error(ErrorCode::kBadSize, at, &StreamRecord::head_dim,
                        "found a row of " + std::to_string(elements) + " values, allowed 1 to 4194304");
  }
  if (elements % dtype_info(dtype)->block_elements != 0) {
    return stream_error(ErrorCode::kBadSize, at, &StreamRecord::head_dim,
                        "a row is no whole number of blocks of its type");
  }
  if (!std::has_single_bit(s.hadamard_size) || s.head_dim % s.hadamard_size != 0) {
    return stream_error(ErrorCode::kCorrupt, at, &StreamRecord::hadamard_size,
                        found_allowed(s.hadamard_size, "a power of two that divides head_dim"));
  }
  if (!span_within(s.first_token, s.token_count, token_count)) {
    return stream_error(ErrorCode::kCorrupt, at, &StreamRecord::token_count, "the span leaves the card");
  }
  if (s.stream == static_cast<std::uint8_t>(StreamKind::kLatent) && s.kv_head_count != 1) {
    return stream_error(ErrorCode::kCorrupt, at, &StreamRecord::kv_head_count,
                        found_allowed(s.kv_head_count, "1 for a latent stream"));
  }
  return {};
}

Status check_parts(const CardHeader& header, const StreamRecord& s, std::uint64_t at,
                   std::uint64_t part_table, std::uint32_t part_stride) {
  if (s.part_count == 0) {
    if (s.part_first == 0) return {};
    return stream_error(ErrorCode::kCorrupt, at, &StreamRecord::part_first, "found parts, but none counted");
  }
  if (!span_within(s.part_first, s.part_count, header.parts.size())) {
    return stream_error(ErrorCode::kBadOffset, at, &StreamRecord::part_first, "parts leave their table");
  }
  std::uint64_t covered = 0;
  for (std::uint32_t i = s.part_first; i < s.part_first + s.part_count; ++i) {
    const PartRecord& part = header.parts[i];
    const std::uint64_t part_at = part_table + std::uint64_t{i} * part_stride;
    if (part.rotated > 1) {
      return field_error(ErrorCode::kBadEnum, part_at, &PartRecord::rotated,
                         found_allowed(part.rotated, "0 or 1"));
    }
    if (part.offset != covered || part.width == 0) {
      return field_error(ErrorCode::kCorrupt, part_at, &PartRecord::offset,
                         "parts must tile a head in ascending order");
    }
    covered += part.width;
  }
  if (covered == s.head_dim) return {};
  return stream_error(ErrorCode::kCorrupt, at, &StreamRecord::part_count,
                      "parts hold " + std::to_string(covered) + " of " + std::to_string(s.head_dim) +
                          " channels");
}

}  // namespace

Status check_segments(const CardHeader& header, std::uint64_t table_offset, std::uint32_t stride) {
  std::uint64_t next = 0;
  for (std::size_t i = 0; i < header.segments.size(); ++i) {
    const SegmentRecord& segment = header.segments[i];
    const std::uint64_t at = table_offset + i * stride;
    if (segment.chunk_order > static_cast<std::uint8_t>(ChunkOrder::kSpanMajor)) {
      return field_error(ErrorCode::kBadEnum, at, &SegmentRecord::chunk_order,
                         found_allowed(segment.chunk_order, "0 or 1"));
    }
    if (segment.first_token != next) {
      return field_error(ErrorCode::kCorrupt, at, &SegmentRecord::first_token,
                         found_allowed(segment.first_token, std::to_string(next)));
    }
    const bool empty_card = header.token_count == 0 && header.segments.size() == 1;
    if (segment.token_count > header.token_count - next || (segment.token_count == 0 && !empty_card)) {
      return field_error(ErrorCode::kCorrupt, at, &SegmentRecord::token_count,
                         "segments must tile the card's tokens");
    }
    next += segment.token_count;
  }
  if (next == header.token_count && !header.segments.empty()) return {};
  return Error{ErrorCode::kCorrupt, table_offset, "header.segment_count",
               "segments hold " + std::to_string(next) + " of " + std::to_string(header.token_count) +
                   " tokens"};
}

Status check_streams(const CardHeader& header, std::uint64_t stream_table, std::uint32_t stream_stride,
                     std::uint64_t part_table, std::uint32_t part_stride) {
  for (std::size_t i = 0; i < header.streams.size(); ++i) {
    const StreamRecord& s = header.streams[i];
    const std::uint64_t at = stream_table + i * stream_stride;
    if (Status status = check_enums(s, at); !status) return status;
    const bool ascending =
        i == 0 || header.streams[i - 1].layer < s.layer ||
        (header.streams[i - 1].layer == s.layer && header.streams[i - 1].stream < s.stream);
    if (!ascending || s.layer >= header.layer_count) {
      return stream_error(ErrorCode::kCorrupt, at, &StreamRecord::layer,
                          found_allowed(s.layer, "ascending by (layer, stream), below layer_count"));
    }
    const bool opaque = s.stream == static_cast<std::uint8_t>(StreamKind::kOpaque);
    const Status status = opaque ? check_opaque(s, at) : check_shape(s, at, header.token_count);
    if (!status) return status;
    if (Status p = check_parts(header, s, at, part_table, part_stride); !p) return p;
  }
  return {};
}

bool is_utf8(std::string_view text) {
  for (std::size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    const std::size_t size = lead < 0x80 ? 1 : lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC2 ? 2 : 0;
    if (size == 0 || lead > 0xF4 || i + size > text.size()) return false;
    std::uint32_t point = size == 1 ? lead : lead & (0x7Fu >> size);
    for (std::size_t k = 1; k < size; ++k) {
      const auto next = static_cast<unsigned char>(text[i + k]);
      if ((next & 0xC0) != 0x80) return false;
      point = point << 6 | (next & 0x3Fu);
    }
    const bool overlong = (size == 3 && point < 0x800) || (size == 4 && point < 0x10000);
    if (overlong || point > 0x10FFFF || (point >= 0xD800 && point <= 0xDFFF)) return false;
    i += size;
  }
  return true;
}

}  // namespace cachecard
