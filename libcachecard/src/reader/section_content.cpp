#include "reader/section_content.hpp"

#include <algorithm>

#include "cachecard/profile.hpp"
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

/// The first field in which the records at `at` differ; ok where none does.
template <class Record>
Status same_record(std::span<const std::byte> found, std::span<const std::byte> expected, std::size_t at) {
  Status status;
  const auto a = load<Record>(found.subspan(at));
  const auto b = load<Record>(expected.subspan(at));
  for_each_field<Record>([&](const auto& f, std::size_t) {
    using Value = std::remove_cvref_t<decltype(a.*(f.member))>;
    if constexpr (std::is_integral_v<Value>) {
      if (status && a.*(f.member) != b.*(f.member)) {
        status = field_error(ErrorCode::kCorrupt, kNoOffset, f.member,
                             found_allowed(a.*(f.member), std::to_string(b.*(f.member)) + ", what the sections give"));
      }
    }
  });
  return status;
}

/// Needs: two summaries that parse, and differ. Equal counts mean that their rows stand at the same places.
Error first_difference(std::span<const std::byte> found, std::span<const std::byte> expected) {
  Status status = same_record<SummaryHeader>(found, expected, 0);
  const auto counts = load<SummaryHeader>(expected);
  std::size_t at = encoded_size<SummaryHeader>();
  for (std::uint32_t i = 0; status && i < counts.stage_count; ++i, at += encoded_size<SummaryStage>())
    status = same_record<SummaryStage>(found, expected, at);
  for (std::uint32_t i = 0; status && i < counts.width_count; ++i, at += encoded_size<SummaryWidth>())
    status = same_record<SummaryWidth>(found, expected, at);
  if (!status) return status.error();
  return {ErrorCode::kCorrupt, kNoOffset, "summary", "the totals are not those of the sections"};
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
      digests_.insert({frame.section_type, frame.stored_digest});
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
      status = check_references_section(frame, payload);
      break;
    case SectionType::kLanes:
      status = check_lanes(frame, payload);
      break;
    case SectionType::kModelProfile:
      status = outcome(parse_profile_layer(payload));
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
  digests_.insert({frame.section_type, frame.stored_digest});
  return {};
}

Status SectionContent::check_map(const FrameHeader& frame, std::span<const std::byte> payload) {
  auto map = parse_map(payload, header_, frame.token_count, limits_);
  if (!map) return map.error();
  if (Status s = keep(map->base.size() + map->cap.size() + 2 * map->row_of.size() + map->rows.size(),
                      "bit_width_map.row_count");
      !s) {
    return s;
  }
  maps_[frame.segment] = std::move(*map);
  return {};
}

/// All of them stay in memory until the end.
Status SectionContent::keep(std::uint64_t bytes, const char* field) {
  map_bytes_ += bytes;
  if (map_bytes_ <= limits_.map_bytes) return {};
  return Error{ErrorCode::kLimitExceeded, kNoOffset, field,
               "maps, lanes and references of " + std::to_string(map_bytes_) + " bytes in all, allowed " +
                   std::to_string(limits_.map_bytes)};
}

Status SectionContent::check_lanes(const FrameHeader& frame, std::span<const std::byte> payload) {
  auto lanes = parse_lanes(payload);
  if (!lanes) return lanes.error();
  if (Status s = keep(payload.size(), "lanes.stream_count"); !s) return s;
  lanes_[frame.stored_digest] = std::move(*lanes);
  digests_.insert({frame.section_type, frame.stored_digest});
  return {};
}

Status SectionContent::check_references_section(const FrameHeader& frame, std::span<const std::byte> payload) {
  auto references = parse_references(payload, header_.segments[frame.segment].token_count);
  if (!references) return references.error();
  if (Status s = keep(payload.size(), "references"); !s) return s;
  references_[frame.stored_digest] = std::move(*references);
  digests_.insert({frame.section_type, frame.stored_digest});
  return {};
}

Status SectionContent::check_parameters(const FrameHeader& frame, std::span<const std::byte> payload) {
  auto parsed = parse_parameters(payload);
  if (!parsed) return parsed.error();
  const ParameterHeader& record = parsed->record;
  const auto resolves = [&](std::uint64_t digest, SectionType type) {
    return digest == 0 || digests_.contains({static_cast<std::uint16_t>(type), digest});
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
  if (!resolves(record.lanes_digest, SectionType::kLanes)) {
    return field_error(ErrorCode::kCorrupt, kNoOffset, &ParameterHeader::lanes_digest, "no such lanes stand before");
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
  return first_difference(payload, bytes);
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
  if (frame.codec == static_cast<std::uint8_t>(Codec::kEntropy)) {
    auto coded = entropy_tokens(header_, map->second, frame);
    if (!coded) return coded.error();
    entropy_tokens_ = std::move(*coded);
    return check_entropy_chunk(frame, stream, parameters->second);
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

Status SectionContent::check_entropy_chunk(const FrameHeader& frame, const StreamRecord& stream,
                                           const Parameters& parameters) {
  const auto misfit = [&](std::string detail) {
    return field_error(ErrorCode::kCorrupt, frame.offset, &FrameHeader::parameter_digest, std::move(detail));
  };
  const auto found = rope_tables_.find(parameters.record.rope_table_digest);
  RopeTable table;
  if (found != rope_tables_.end()) table.record = found->second;
  const auto lanes = lanes_.find(parameters.record.lanes_digest);
  const LaneStream* own = lanes == lanes_.end() ? nullptr : lanes->second.find(stream.layer, stream.stream);
  if (Status s = check_entropy_parameters(stream, parameters, own, found == rope_tables_.end() ? nullptr : &table.record);
      !s) {
    return misfit(s.error().detail);
  }
  const auto positions = positions_of_.find(frame.segment);
  if (parameters.record.rope_removed == 1 &&
      (positions == positions_of_.end() || positions->second != parameters.record.positions_digest)) {
    return misfit("the parameters name the positions of another segment");
  }
  chunk_references_ = {};
  if (const auto named = references_.find(parameters.record.references_digest); named != references_.end()) {
    const SegmentRecord& segment = header_.segments[frame.segment];
    if (named->second.size() != segment.token_count) return misfit("the references are of another segment");
    chunk_references_ =
        std::span<const std::uint16_t>(named->second).subspan(frame.first_token - segment.first_token, frame.token_count);
    if (Status s = check_references(frame, chunk_references_); !s) return s;
  }
  entropy_stream_.emplace(stream, parameters, *own, found == rope_tables_.end() ? nullptr : &table);
  return {};
}

Status SectionContent::check_entropy(const FrameHeader& frame, std::span<const std::byte> payload, bool decode) {
  const StreamRecord& stream = header_.streams[*header_.stream_index(frame.layer, static_cast<StreamKind>(frame.stream))];
  const EntropyStream& opened = *entropy_stream_;
  auto head = parse_entropy_head(stream, frame, entropy_tokens_, opened.group_widths(), opened.has_scale(), payload);
  if (!head) return head.error();
  if (!decode) return {};
  scratch_.resize(entropy_decode_scratch(stream, frame));
  return outcome(EntropyChunk::open(opened, entropy_tokens_, *head, chunk_references_, frame, scratch_));
}

void SectionContent::count_widths(const FrameHeader& frame, FrameWalk& walk) const {
  if (frame.codec == static_cast<std::uint8_t>(Codec::kPlanes)) return count_planes(header_, frame, tokens_, walk);
  if (frame.codec != static_cast<std::uint8_t>(Codec::kEntropy)) return;
  count_entropy(header_, maps_.at(frame.segment), frame, walk);
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
