#include "format/planes_layout.hpp"

#include <algorithm>

#include "base/bytes.hpp"
#include "cachecard/digest.hpp"
#include "format/frame_walk.hpp"
#include "format/framing.hpp"
#include "format/record_check.hpp"

namespace cachecard {
namespace {

Error map_error(const FrameHeader& frame, std::string detail) {
  return field_error(ErrorCode::kCorrupt, frame.offset, &FrameHeader::map_digest, std::move(detail));
}

/// Width of a token in bits, 0 for exact, or what is wrong with it.
Result<std::uint8_t> coded_bits(const FrameHeader& frame, std::uint8_t base, std::int8_t offset, std::uint64_t token) {
  if (offset == kOffsetExact) return std::uint8_t{0};
  const int half_bits = int{base} + offset;
  if (offset == kOffsetFine || offset == kOffsetAbsent || half_bits % 2 != 0 || half_bits < 2 ||
      half_bits > 2 * static_cast<int>(kMostBits)) {
    return map_error(frame, "token " + std::to_string(token) + ": found base " + std::to_string(base) + ", offset " +
                                std::to_string(offset) + " half bits, allowed 1 to 8 whole bits or exact");
  }
  return static_cast<std::uint8_t>(half_bits / 2);
}

/// Stable, by falling width. Needs: coded_width is filled.
void place_tokens(PlanesTokens& tokens) {
  std::array<std::uint32_t, kMostBits + 1> count{};
  for (const std::uint8_t width : tokens.coded_width) ++count[width];
  std::array<std::uint32_t, kMostBits + 1> next{};
  std::uint32_t at = 0;
  for (std::uint32_t width = kMostBits; width >= 1; --width) {
    next[width] = at;
    at += count[width];
    tokens.longer[width - 1] = at;
  }
  tokens.coded_count = at;
  tokens.exact_count = count[0];
  tokens.order.resize(at);
  tokens.place.resize(tokens.coded_width.size());
  for (std::uint32_t t = 0; t < tokens.coded_width.size(); ++t) {
    const std::uint8_t width = tokens.coded_width[t];
    tokens.place[t] = next[width]++;
    if (width != 0) tokens.order[tokens.place[t]] = t;
  }
}

Error head_error(ErrorCode code, const FrameHeader& frame, std::string field, std::string detail) {
  return {code, frame.offset + kFrameHeaderSize, std::move(field), std::move(detail)};
}

Status check_counts(const FrameHeader& frame, const PlanesRecord& record, const PlanesTokens& tokens) {
  if (record.record_size != encoded_size<PlanesRecord>()) {
    return head_error(ErrorCode::kBadSize, frame, "planes.record_size", found_allowed(record.record_size, "32"));
  }
  if (Status s = check_reserved(record, frame.offset + kFrameHeaderSize); !s) return s;
  const auto follows = [&](const char* name, std::uint32_t found, std::uint32_t expected) -> Status {
    if (found == expected) return {};
    return head_error(ErrorCode::kCorrupt, frame, name,
                      found_allowed(found, std::to_string(expected) + ", as the map says"));
  };
  if (Status s = follows("planes.plane_count", record.plane_count, tokens.plane_count); !s) return s;
  if (Status s = follows("planes.exact_count", record.exact_count, tokens.exact_count); !s) return s;
  return follows("planes.coded_count", record.coded_count, tokens.coded_count);
}

Status check_table(const StreamRecord& stream, const FrameHeader& frame, const PlanesTokens& tokens,
                   std::span<const std::byte> table, PlanesHead& head) {
  const std::uint64_t row = (row_elements(stream) + 7) / 8;
  std::uint64_t at = head.size;
  for (std::uint32_t p = 0; p < tokens.plane_count; ++p) {
    head.planes[p] = load<PlaneRecord>(table.subspan(p * encoded_size<PlaneRecord>()));
    head.plane_offset[p] = at;
    if (head.planes[p].size != tokens.longer[p] * row) {
      return head_error(ErrorCode::kBadSize, frame, "plane.size",
                        found_allowed(head.planes[p].size, std::to_string(tokens.longer[p] * row)));
    }
    at += head.planes[p].size;
  }
  if (at != frame.stored_size) {
    return field_error(ErrorCode::kBadSize, frame.offset, &FrameHeader::stored_size,
                       found_allowed(frame.stored_size, std::to_string(at) + " bytes of head and planes"));
  }
  return {};
}

}  // namespace

Result<PlanesTokens> planes_tokens(const CardHeader& header, const BitWidthMap& map, const FrameHeader& frame) {
  const std::size_t index = *header.stream_index(frame.layer, static_cast<StreamKind>(frame.stream));
  const std::size_t first_use = BitWidthMap::first_use(header, index);
  const std::uint16_t row_number = map.row_of[first_use];
  for (std::uint32_t head = 1; head < header.streams[index].kv_head_count; ++head) {
    if (map.row_of[first_use + head] == row_number) continue;
    return map_error(frame, "the heads of a planes stream use one row, head " + std::to_string(head) + " has another");
  }
  const std::uint8_t cap = map.cap[index];
  if (cap != kNoCap && (cap < 2 || cap > 2 * kMostBits || cap % 2 != 0)) {
    return map_error(frame, "found a cap of " + std::to_string(cap) + " half bits, allowed 1 to 8 whole bits or 255");
  }
  const std::uint64_t first = frame.first_token - header.segments[frame.segment].first_token;
  PlanesTokens tokens;
  tokens.coded_width.reserve(frame.token_count);
  std::uint32_t widest = 0;
  for (const std::int8_t offset : map.row(row_number).subspan(first, frame.token_count)) {
    auto bits = coded_bits(frame, map.base[index], offset, frame.first_token + tokens.coded_width.size());
    if (!bits) return bits.error();
    tokens.coded_width.push_back(*bits);
    widest = std::max<std::uint32_t>(widest, *bits);
  }
  tokens.plane_count = cap == kNoCap ? widest : std::min<std::uint32_t>(widest, cap / 2);
  place_tokens(tokens);
  return tokens;
}

void count_planes(const CardHeader& header, const FrameHeader& frame, const PlanesTokens& tokens, FrameWalk& walk) {
  const StreamRecord& stream = header.streams[*header.stream_index(frame.layer, static_cast<StreamKind>(frame.stream))];
  const std::uint64_t row = row_elements(stream);
  std::array<std::uint64_t, kMostBits + 1> count{};
  for (std::size_t t = 0; t < tokens.coded_width.size(); ++t) ++count[tokens.present_width(t)];
  for (std::uint32_t width = 1; width <= kMostBits; ++width) {
    if (count[width] > 0) walk.count_width(frame, static_cast<std::uint8_t>(2 * width), count[width] * row);
  }
  const std::uint8_t whole = dtype_info(static_cast<DType>(stream.dtype))->width_half_bits;
  if (count[0] > 0) walk.count_width(frame, whole, count[0] * row);
}

std::vector<std::uint32_t> planes_groups(const StreamRecord& stream, const Parameters& parameters) {
  if (parameters.parts.empty()) return {stream.head_dim};
  std::vector<std::uint32_t> widths;
  for (const PartRecord& part : parameters.parts) widths.push_back(part.width);
  return widths;
}

Status check_card_order(const StreamRecord& stream, const Parameters& parameters, const RopeTableHeader* table) {
  const auto misfit = [](std::string detail) {
    return Error{ErrorCode::kCorrupt, kNoOffset, "parameters", std::move(detail)};
  };
  std::uint64_t at = 0;
  for (const PartRecord& part : parameters.parts) {
    if (part.offset != at || part.width == 0 || part.rotated > 1) return misfit("parts do not tile a head");
    at += part.width;
  }
  if (!parameters.parts.empty() && at != stream.head_dim) return misfit("parts do not tile a head");
  for (const std::uint32_t width : planes_groups(stream, parameters)) {
    if (width % parameters.record.hadamard_size != 0) return misfit("hadamard_size does not divide the groups");
  }
  if (parameters.record.rope_removed == 0) return {};
  if (stream.rope_state != static_cast<std::uint8_t>(RopeState::kPostRope) || stream.hadamard_size != 1) {
    return misfit("rope_removed, but the stream's keys are not post_rope and unrotated");
  }
  if (table == nullptr || std::uint64_t{table->rotated_offset} + table->rotated_width > stream.head_dim) {
    return misfit("the RoPE table's channels leave the head");
  }
  return {};
}

Status check_planes_parameters(const StreamRecord& stream, const Parameters& parameters, const RopeTableHeader* table) {
  const auto misfit = [](std::string detail) {
    return Error{ErrorCode::kCorrupt, kNoOffset, "parameters", std::move(detail)};
  };
  if (parameters.record.codec != static_cast<std::uint8_t>(Codec::kPlanes)) return misfit("they are of another codec");
  const std::uint64_t data_size = parameters.record.data_size;
  if (data_size != 0 && data_size != 2 * row_elements(stream)) {
    return misfit("found " + std::to_string(data_size / 2) + " means, allowed none or " +
                  std::to_string(row_elements(stream)));
  }
  return check_card_order(stream, parameters, table);
}

PlanesHeadSizes planes_head_sizes(std::size_t unit_count, std::uint64_t coded_count, std::uint64_t exact_count,
                                  std::uint64_t row_size, std::uint32_t plane_count) {
  PlanesHeadSizes sizes{};
  sizes.scale_offset = encoded_size<PlanesRecord>() + 2 * unit_count;
  sizes.exact_offset = sizes.scale_offset + coded_count * unit_count;
  sizes.table_offset = (sizes.exact_offset + exact_count * row_size + 7) / 8 * 8;
  sizes.size = sizes.table_offset + plane_count * encoded_size<PlaneRecord>();
  return sizes;
}

Result<PlanesHead> parse_planes_head(const StreamRecord& stream, const FrameHeader& frame, const PlanesTokens& tokens,
                                     std::size_t unit_count, std::span<const std::byte> bytes) {
  if (bytes.size() < encoded_size<PlanesRecord>()) {
    return head_error(ErrorCode::kBadSize, frame, "planes", "shorter than its record");
  }
  PlanesHead head;
  head.record = load<PlanesRecord>(bytes);
  if (Status s = check_counts(frame, head.record, tokens); !s) return s.error();
  const std::uint64_t row = row_bytes(stream, static_cast<DType>(stream.dtype));
  const PlanesHeadSizes sizes =
      planes_head_sizes(unit_count, tokens.coded_count, tokens.exact_count, row, tokens.plane_count);
  if (sizes.size != bytes.size()) {
    return field_error(ErrorCode::kBadSize, frame.offset, &FrameHeader::digest_size,
                       found_allowed(frame.digest_size, std::to_string(sizes.size)));
  }
  head.unit_count = unit_count;
  head.size = sizes.size;
  head.top = load_numbers<std::int16_t>(bytes.subspan(encoded_size<PlanesRecord>(), 2 * unit_count));
  for (const std::int16_t top : head.top) {
    if (top >= kLeastTop && top <= kMostTop) continue;
    return head_error(ErrorCode::kCorrupt, frame, "planes.top",
                      "found " + std::to_string(top) + ", allowed -1344 to 1600");
  }
  head.scale = bytes.subspan(sizes.scale_offset, tokens.coded_count * unit_count);
  const std::uint64_t exact_size = tokens.exact_count * row;
  head.exact_rows = bytes.subspan(sizes.exact_offset, exact_size);
  const std::uint64_t padding = sizes.exact_offset + exact_size;
  if (Status s = check_padding(bytes.subspan(padding, sizes.table_offset - padding),
                               frame.offset + kFrameHeaderSize + padding);
      !s) {
    return s.error();
  }
  if (Status s = check_table(stream, frame, tokens, bytes.subspan(sizes.table_offset), head); !s) return s.error();
  return head;
}

Status check_plane_digests(const FrameHeader& frame, const PlanesHead& head, std::span<const std::byte> payload) {
  for (std::uint32_t p = 0; p < head.record.plane_count; ++p) {
    if (digest64(payload.subspan(head.plane_offset[p], head.planes[p].size)) == head.planes[p].digest) continue;
    return Error{ErrorCode::kChecksumMismatch, frame.offset + kFrameHeaderSize + head.plane_offset[p], "plane.digest",
                 "plane " + std::to_string(p) + " does not match"};
  }
  return {};
}

Status check_planes_of_head(const FrameHeader& frame, std::span<const std::byte> payload) {
  const Error misfit = head_error(ErrorCode::kBadSize, frame, "planes.plane_count", "the planes do not fill the payload");
  if (frame.digest_size < encoded_size<PlanesRecord>()) return misfit;
  const auto count = load<PlanesRecord>(payload).plane_count;
  const std::uint64_t table_size = count * encoded_size<PlaneRecord>();
  if (count > kMostBits || table_size > frame.digest_size - encoded_size<PlanesRecord>()) return misfit;
  PlanesHead head;
  head.record.plane_count = count;
  std::uint64_t at = frame.digest_size;
  for (std::uint32_t p = 0; p < count; ++p) {
    head.planes[p] = load<PlaneRecord>(payload.subspan(frame.digest_size - table_size + p * encoded_size<PlaneRecord>()));
    head.plane_offset[p] = at;
    if (head.planes[p].size > payload.size() - at) return misfit;
    at += head.planes[p].size;
  }
  if (at != payload.size()) return misfit;
  return check_plane_digests(frame, head, payload);
}

}  // namespace cachecard
