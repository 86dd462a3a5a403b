#include "reader/section_content.hpp"

#include <algorithm>

#include "format/header_checks.hpp"
#include "format/record_check.hpp"
#include "reader/payload.hpp"

namespace cachecard {
namespace {

std::string_view as_text(std::span<const std::byte> payload) {
  return {reinterpret_cast<const char*>(payload.data()), payload.size()};
}

template <class T>
Status outcome(const Result<T>& result) {
  if (!result) return result.error();
  return {};
}

}  // namespace

Status SectionContent::check(const FrameHeader& frame, std::span<const std::byte> payload,
                             const Summary& expected) {
  Status status;
  switch (static_cast<SectionType>(frame.section_type)) {
    case SectionType::kText:
      if (!is_utf8(as_text(payload))) {
        status = Error{ErrorCode::kCorrupt, kNoOffset, "text", "the text is not UTF-8"};
      }
      break;
    case SectionType::kPositions:
      status = outcome(parse_positions(payload, frame.token_count));
      digests_[frame.stored_digest] = frame.section_type;
      positions_of_[frame.segment] = frame.stored_digest;
      break;
    case SectionType::kBitWidthMap:
      status = check_map(frame, payload);
      break;
    case SectionType::kParameters:
      status = check_parameters(frame, payload);
      break;
    case SectionType::kRopeTable:
      status = check_rope_table(frame, payload);
      break;
    case SectionType::kReferences:
      digests_[frame.stored_digest] = frame.section_type;
      break;
    case SectionType::kProvenance:
      status = outcome(parse_provenance(payload));
      break;
    case SectionType::kSourceLayout: {
      const auto layout = parse_source_layout(payload, header_);
      status = outcome(layout);
      if (layout) literal_size_ = layout->record.literal_size;
      break;
    }
    case SectionType::kSourceBytes:
      literals_seen_ += payload.size();
      break;
    case SectionType::kSummary:
      status = check_summary(payload, expected);
      break;
    default:
      break;
  }
  if (!status) return at_payload(status.error(), frame);
  return {};
}

Status SectionContent::check_rope_table(const FrameHeader& frame, std::span<const std::byte> payload) {
  const auto table = parse_rope_table(payload);
  if (!table) return table.error();
  rope_tables_[frame.stored_digest] = table->record;
  digests_[frame.stored_digest] = frame.section_type;
  return {};
}

Status SectionContent::check_map(const FrameHeader& frame, std::span<const std::byte> payload) {
  auto map = parse_map(payload, header_, frame.token_count, limits_);
  if (!map) return map.error();
  map_bytes_ += map->base.size() + map->cap.size() + 2 * map->row_of.size() + map->rows.size();
  if (map_bytes_ > limits_.map_bytes) {  // all of them stay in memory until the end
    return field_error(ErrorCode::kLimitExceeded, kNoOffset, &MapHeader::row_count,
                       "maps of " + std::to_string(map_bytes_) + " bytes in all, allowed " +
                           std::to_string(limits_.map_bytes));
  }
  maps_[frame.segment] = std::move(*map);
  return {};
}

Status SectionContent::check_parameters(const FrameHeader& frame, std::span<const std::byte> payload) {
  auto parsed = parse_parameters(payload);
  if (!parsed) return parsed.error();
  const ParameterHeader& record = parsed->record;
  const auto resolves = [&](std::uint64_t digest, SectionType type) {
    const auto found = digests_.find(digest);
    return digest == 0 ||
           (found != digests_.end() && found->second == static_cast<std::uint16_t>(type));
  };
  if (!resolves(record.rope_table_digest, SectionType::kRopeTable)) {
    return field_error(ErrorCode::kCorrupt, kNoOffset, &ParameterHeader::rope_table_digest,
                       "no such rope_table stands before");
  }
  if (!resolves(record.positions_digest, SectionType::kPositions)) {
    return field_error(ErrorCode::kCorrupt, kNoOffset, &ParameterHeader::positions_digest,
                       "no such positions stand before");
  }
  if (!resolves(record.references_digest, SectionType::kReferences)) {
    return field_error(ErrorCode::kCorrupt, kNoOffset, &ParameterHeader::references_digest,
                       "no such references stand before");
  }
  parsed->data = {};
  parameters_[frame.stored_digest] = std::move(*parsed);
  return {};
}

Status SectionContent::check_summary(std::span<const std::byte> payload, const Summary& expected) const {
  auto found = parse_summary(payload);
  if (!found) return found.error();
  Summary same = expected;
  same.predicted_error = found->predicted_error;  // the one number that a reader cannot recompute
  const std::vector<std::byte> bytes = encode_summary(same);
  if (std::equal(bytes.begin(), bytes.end(), payload.begin(), payload.end())) return {};
  return Error{ErrorCode::kCorrupt, kNoOffset, "summary", "the totals are not those of the sections"};
}

Status SectionContent::check_chunk(const FrameHeader& frame) {
  const auto parameters = parameters_.find(frame.parameter_digest);
  const auto index = *header_.stream_index(frame.layer, static_cast<StreamKind>(frame.stream));
  const StreamRecord& stream = header_.streams[index];
  if (parameters != parameters_.end()) {
    if (Status s = check_named_parameters(frame, stream, parameters->second.record); !s) return s;
  }
  if (stream.stream == static_cast<std::uint8_t>(StreamKind::kOpaque)) return {};
  const auto map = maps_.find(frame.segment);
  if (map == maps_.end()) return {};  // FrameWalk saw to it that the segment has one
  const std::size_t first_use = BitWidthMap::first_use(header_, index);
  const std::uint64_t first = frame.first_token - header_.segments[frame.segment].first_token;
  for (std::uint32_t head = 0; head < stream.kv_head_count; ++head) {
    const auto row = map->second.row(map->second.row_of[first_use + head]);
    const auto span = row.subspan(first, frame.token_count);
    if (std::find(span.begin(), span.end(), kOffsetAbsent) != span.end()) {
      return field_error(ErrorCode::kCorrupt, frame.offset, &FrameHeader::map_digest,
                         "the map says that a token of this chunk is absent");
    }
  }
  if (frame.codec != static_cast<std::uint8_t>(Codec::kPlanes)) return {};
  auto tokens = planes_tokens(header_, map->second, frame);
  if (!tokens) return tokens.error();
  tokens_ = std::move(*tokens);
  unit_count_ = stream.kv_head_count * planes_groups(stream, parameters->second).size();
  return check_planes_chunk(frame, stream, parameters->second);
}

Status SectionContent::check_planes_chunk(const FrameHeader& frame, const StreamRecord& stream,
                                          const Parameters& parameters) const {
  const auto misfit = [&](std::string detail) {
    return field_error(ErrorCode::kCorrupt, frame.offset, &FrameHeader::parameter_digest, std::move(detail));
  };
  const auto table = rope_tables_.find(parameters.record.rope_table_digest);
  if (Status s = check_planes_parameters(stream, parameters, table == rope_tables_.end() ? nullptr : &table->second);
      !s) {
    return misfit(s.error().detail);
  }
  const auto positions = positions_of_.find(frame.segment);
  if (parameters.record.rope_removed == 1 &&
      (positions == positions_of_.end() || positions->second != parameters.record.positions_digest)) {
    return misfit("the parameters name the positions of another segment");
  }
  return {};
}

Status SectionContent::check_planes(const FrameHeader& frame, std::span<const std::byte> payload) const {
  const auto index = *header_.stream_index(frame.layer, static_cast<StreamKind>(frame.stream));
  auto head = parse_planes_head(header_.streams[index], frame, tokens_, unit_count_, payload.first(frame.digest_size));
  if (!head) return head.error();
  return check_plane_digests(frame, *head, payload);
}

Status SectionContent::finish(std::uint64_t directory_offset) const {
  if (literals_seen_ == literal_size_) return {};
  return Error{ErrorCode::kCorrupt, directory_offset, "source_layout.literal_size",
               found_allowed(literals_seen_, std::to_string(literal_size_))};
}

}  // namespace cachecard
