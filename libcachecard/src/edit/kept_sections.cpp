#include "edit/kept_sections.hpp"

#include <algorithm>

#include "cachecard/digest.hpp"
#include "codec/entropy_encoder.hpp"
#include "format/planes_layout.hpp"
#include "format/record_check.hpp"
#include "format/section_rules.hpp"
#include "reader/chunk_rows.hpp"
#include "reader/payload.hpp"

namespace cachecard {
namespace {

bool is_type(const FrameHeader& frame, SectionType type) {
  return frame.section_type == static_cast<std::uint16_t>(type);
}

/// What chunks and parameters name.
bool is_named(const FrameHeader& frame) {
  return is_type(frame, SectionType::kRopeTable) || is_type(frame, SectionType::kParameters) ||
         is_type(frame, SectionType::kLanes) || is_type(frame, SectionType::kReferences);
}

template <class T>
Status outcome(const Result<T>& result) {
  if (!result) return result.error();
  return {};
}

bool same_streams(const CardHeader& a, const CardHeader& b) {
  return std::equal(a.streams.begin(), a.streams.end(), b.streams.begin(), b.streams.end(),
                    [](const StreamRecord& x, const StreamRecord& y) { return x.layer == y.layer && x.stream == y.stream; });
}

}  // namespace

bool is_optional(const FrameHeader& frame) {
  return is_type(frame, SectionType::kText) || is_type(frame, SectionType::kMedia) ||
         is_type(frame, SectionType::kSourceLayout) || is_type(frame, SectionType::kCanary) ||
         section_rule(frame.section_type) == nullptr;
}

KeptSections::KeptSections(const CardReader& card, const Cut& cut, const TrimOptions& options, KeepRules rules)
    : card_(card), cut_(cut), options_(options), rules_(rules) {
  for (std::uint32_t i = 0; i < card.header().segments.size(); ++i) {
    SegmentRecord segment = card.header().segments[i];
    const TokenSpan span = cut.clip(segment.first_token, segment.token_count);
    new_segment_.push_back(span.token_count > 0 ? static_cast<std::uint32_t>(segments_.size()) : kNoSegment);
    if (span.token_count == 0) continue;
    segment.first_token = span.first_token;
    segment.token_count = span.token_count;
    old_segment_.push_back(i);
    segments_.push_back(segment);
  }
}

/// All its tokens stay, and its map keeps its shape.
bool KeptSections::is_whole(std::uint32_t old_segment) const {
  const std::uint32_t segment = new_segment_[old_segment];
  return same_streams_ && !options_.key_bits && !options_.value_bits && segment != kNoSegment &&
         segments_[segment].token_count == card_.header().segments[old_segment].token_count;
}

/// The lower of what the stream has and what is asked for.
std::uint8_t KeptSections::new_cap(const BitWidthMap& map, std::uint32_t stream) const {
  const StreamRecord& record = card_.header().streams[stream];
  const auto& asked =
      record.stream == static_cast<std::uint8_t>(StreamKind::kValue) ? options_.value_bits : options_.key_bits;
  const auto chunks = card_.chunks(stream);
  const bool planes = std::any_of(chunks.begin(), chunks.end(), [&](std::uint32_t frame) {
    return card_.frames()[frame].codec == static_cast<std::uint8_t>(Codec::kPlanes);
  });
  if (!asked || !planes) return map.cap[stream];
  return std::min(map.cap[stream], static_cast<std::uint8_t>(2 * *asked));
}

/// Those of the streams that stay; what the old card knows nothing of is opaque, and has none.
Status KeptSections::add_map(std::uint32_t new_segment, FrameHeader frame) {
  auto old = card_.map(old_segment_[new_segment]);
  if (!old) return old.error();
  const SegmentRecord& old_record = card_.header().segments[old_segment_[new_segment]];
  const SegmentRecord& record = segments_[new_segment];
  const std::uint64_t skip = record.first_token + cut_.first - old_record.first_token;
  BitWidthMap map;
  map.token_count = record.token_count;
  for (const StreamRecord& stream : header_->streams) {
    const auto index = card_.header().stream_index(stream.layer, static_cast<StreamKind>(stream.stream));
    map.base.push_back(index ? old->base[*index] : 0);
    map.cap.push_back(index ? new_cap(*old, static_cast<std::uint32_t>(*index)) : kNoCap);
    if (!index) continue;
    const std::size_t first = BitWidthMap::first_use(card_.header(), *index);
    const std::size_t end = BitWidthMap::first_use(card_.header(), *index + 1);
    map.row_of.insert(map.row_of.end(), old->row_of.begin() + static_cast<std::ptrdiff_t>(first),
                      old->row_of.begin() + static_cast<std::ptrdiff_t>(end));
  }
  frame.compressor = card_.frames()[*card_.find(SectionType::kBitWidthMap, old_segment_[new_segment])].compressor;
  for (std::size_t row = 0; row < old->row_count(); ++row) {
    const auto kept = old->row(row).subspan(skip, map.token_count);
    map.rows.insert(map.rows.end(), kept.begin(), kept.end());
  }
  auto written = writer_->add(frame, encode_map(map));
  if (!written) return written.error();
  map_digest_[new_segment] = written->stored_digest;
  if ((card_.prologue().required_features & (kFeaturePlanes | kFeatureEntropy)) != 0) {
    maps_[new_segment] = std::move(map);
    old_cap_[new_segment] = std::move(old->cap);
  }
  return {};
}

Status KeptSections::add_segment_sections(std::uint32_t new_segment) {
  const SegmentRecord& segment = segments_[new_segment];
  const auto framed = [&](SectionType type) {
    FrameHeader frame = make_frame(type, new_segment);
    frame.first_token = segment.first_token;
    frame.token_count = segment.token_count;
    return frame;
  };
  const std::uint32_t old_segment = old_segment_[new_segment];
  if (is_whole(old_segment)) {
    for (const SectionType type : {SectionType::kTokenIds, SectionType::kPositions, SectionType::kBitWidthMap}) {
      const auto index = card_.find(type, old_segment);
      if (!index) continue;  // token ids that are not known
      const FrameHeader& old = card_.frames()[*index];
      if (Status s = copy_section(framed(type), *index); !s) return s;
      if (type == SectionType::kPositions) digest_of_[{old.stored_digest, new_segment}] = old.stored_digest;
      if (type == SectionType::kBitWidthMap) map_digest_[new_segment] = old.stored_digest;
    }
    return {};
  }
  if (!token_ids_.empty()) {
    const auto ids = std::span<const std::int32_t>(token_ids_).subspan(segment.first_token, segment.token_count);
    if (Status s = outcome(writer_->add(framed(SectionType::kTokenIds), std::as_bytes(ids))); !s) return s;
  }
  const auto positions = std::span<const std::int32_t>(positions_).subspan(segment.first_token, segment.token_count);
  const auto runs = encode_positions(position_runs(positions));
  auto written = writer_->add(framed(SectionType::kPositions), runs);
  if (!written) return written.error();
  const auto old = card_.find(SectionType::kPositions, old_segment);
  digest_of_[{card_.frames()[*old].stored_digest, new_segment}] = written->stored_digest;
  return add_map(new_segment, framed(SectionType::kBitWidthMap));
}

/// rope_table, lanes, references and parameters, so that what chunks name stands before them.
Status KeptSections::add_named(std::size_t index) {
  FrameHeader frame = card_.frames()[index];
  if (frame.layer != kNoLayer && !cut_.keeps_layer(frame.layer)) return {};
  if (frame.segment != kNoSegment) {
    const std::uint32_t segment = new_segment_[frame.segment];
    frame.segment = segment == kNoSegment ? 0 : segment;  // a later segment may still name it
  }
  if (is_type(frame, SectionType::kParameters)) return add_parameters(frame, index);
  if (is_type(frame, SectionType::kReferences)) return add_references(frame, index);
  named_.insert(frame.stored_digest);
  return copy_section(frame, index);
}

/// frame: what says where and what it is; sizes, digests and codes are the old one's.
Status KeptSections::copy_section(const FrameHeader& frame, std::size_t index) {
  const FrameHeader& old = card_.frames()[index];
  EncodedSection section;
  section.buffer.resize(old.stored_size);
  if (Status s = card_.read_stored(index, section.buffer); !s) return s;
  section.frame = frame;
  section.frame.compressor = old.compressor;
  section.frame.stored_size = old.stored_size;
  section.frame.decoded_size = old.decoded_size;
  section.frame.digest_size = old.digest_size;
  section.frame.stored_digest = old.stored_digest;
  section.stored = section.buffer;
  return outcome(writer_->append(section));
}

/// Once for each segment whose chunks use it: those of its tokens that stay. What led out of them belongs to a chunk that is
/// cut at its front, which is refused.
Status KeptSections::add_references(FrameHeader frame, std::size_t index) {
  const std::uint64_t digest = frame.stored_digest;
  for (const std::uint32_t segment : users_[digest]) {
    frame.segment = segment;
    std::uint64_t& anew = digest_of_[{digest, segment}];
    anew = digest;
    if (is_whole(old_segment_[segment])) {
      if (!named_.insert(digest).second) continue;
      if (Status s = copy_section(frame, index); !s) return s;
      continue;
    }
    auto payload = card_.read_section(index);
    if (!payload) return payload.error();
    const SegmentRecord& old = card_.header().segments[old_segment_[segment]];
    auto parsed = parse_references(*payload, old.token_count);
    if (!parsed) return at_payload(parsed.error(), card_.frames()[index]);
    const SegmentRecord& now = segments_[segment];
    const References kept = cut_references(*parsed, now.first_token + cut_.first - old.first_token, now.token_count);
    const auto bytes = std::as_bytes(std::span(kept));
    anew = digest64(bytes);
    frame.compressor = 0;
    if (!named_.insert(anew).second) continue;
    if (Status s = outcome(writer_->add(frame, bytes)); !s) return s;
  }
  return {};
}

/// Verbatim, but for those that name positions or references that were written anew: they are one segment's.
Status KeptSections::add_parameters(FrameHeader frame, std::size_t index) {
  const std::uint64_t digest = frame.stored_digest;
  auto parameters = card_.parameters(digest);
  if (!parameters) return parameters.error();
  const ParameterHeader old = parameters->record;
  ParameterHeader& record = parameters->record;
  if (old.positions_digest == 0 && old.references_digest == 0) {
    named_.insert(digest);
    return copy_section(frame, index);
  }
  for (const std::uint32_t segment : users_[digest]) {
    const auto positions = digest_of_.find({old.positions_digest, segment});
    const auto references = digest_of_.find({old.references_digest, segment});
    record.positions_digest = positions == digest_of_.end() ? 0 : positions->second;
    record.references_digest = references == digest_of_.end() ? 0 : references->second;
    const bool same = record.positions_digest == old.positions_digest && record.references_digest == old.references_digest;
    const std::vector<std::byte> payload = encode_parameters(*parameters);
    const std::uint64_t anew = same ? digest : digest64(payload);
    digest_of_[{digest, segment}] = anew;
    if (!named_.insert(anew).second) continue;
    frame.segment = segment;
    if (!same) frame.compressor = 0;
    if (Status s = same ? copy_section(frame, index) : outcome(writer_->add(frame, payload)); !s) return s;
  }
  return {};
}

/// Whether the chunk has planes that the new map no longer gives it.
bool KeptSections::is_lowered(const FrameHeader& old, const FrameHeader& frame) const {
  if (old.codec != static_cast<std::uint8_t>(Codec::kPlanes) || is_whole(old.segment)) return false;
  const auto kind = static_cast<StreamKind>(old.stream);
  const std::size_t before = *card_.header().stream_index(old.layer, kind);
  const std::size_t after = *header_->stream_index(old.layer, kind);
  return old_cap_.at(frame.segment)[before] != maps_.at(frame.segment).cap[after];
}

/// Codes and scales of the kept tokens are moved; planes that go are left behind.
Status KeptSections::add_cut_planes(const FrameHeader& old, FrameHeader frame, TokenSpan span) {
  const std::size_t stream = *card_.header().stream_index(old.layer, static_cast<StreamKind>(old.stream));
  std::vector<std::byte> scratch(card_.scratch_bytes(stream));
  auto rows = ChunkRows::open(card_, old, scratch);
  if (!rows) return rows.error();
  frame.first_token = span.first_token;
  frame.token_count = span.token_count;
  auto kept = planes_tokens(*header_, maps_.at(frame.segment), frame);
  if (!kept) return kept.error();
  auto payload = cut_planes(*rows->planes_chunk(), span.first_token + cut_.first - old.first_token, *kept,
                            frame.digest_size);
  return append_cut(*writer_, frame, std::move(payload));
}

/// The first tokens of a chunk, coded anew from its rows.
Status KeptSections::add_cut_entropy(const FrameHeader& old, FrameHeader frame, TokenSpan span) {
  if (span.first_token + cut_.first != old.first_token) {
    return Error{ErrorCode::kNotRestorable, kNoOffset, "entropy",
                 "tokens from " + std::to_string(span.first_token + cut_.first) +
                     ": an entropy chunk is decoded from its beginning, allowed is a cut at token " +
                     std::to_string(old.first_token) + " or " + std::to_string(old.first_token + old.token_count)};
  }
  const std::size_t stream = *card_.header().stream_index(old.layer, static_cast<StreamKind>(old.stream));
  std::vector<std::byte> scratch(card_.scratch_bytes(stream));
  auto rows = ChunkRows::open(card_, old, scratch);
  if (!rows) return rows.error();
  frame.first_token = span.first_token;
  frame.token_count = span.token_count;
  std::vector<std::byte> payload = cut_entropy(*rows->entropy_chunk(), span.token_count);
  frame.digest_size = payload.size();
  return append_cut(*writer_, frame, std::move(payload));
}

Status KeptSections::add_cut_chunk(const FrameHeader& old, FrameHeader frame, TokenSpan span) {
  if (old.codec == static_cast<std::uint8_t>(Codec::kEntropy)) {
    ++cut_chunks_;
    return add_cut_entropy(old, frame, span);
  }
  if (old.codec == static_cast<std::uint8_t>(Codec::kPlanes)) {
    ++cut_chunks_;
    return add_cut_planes(old, frame, span);
  }
  const auto kind = static_cast<StreamKind>(old.stream);
  const std::size_t old_stream = *card_.header().stream_index(old.layer, kind);
  const std::size_t new_stream = *header_->stream_index(old.layer, kind);
  const StreamRecord& stream = header_->streams[new_stream];
  std::vector<std::byte> rows(span.token_count * row_bytes(stream, static_cast<DType>(stream.dtype)));
  std::vector<std::byte> scratch(card_.scratch_bytes(old_stream));
  if (Status s = card_.read_rows(old_stream, span.first_token + cut_.first, span.token_count, rows, scratch); !s) {
    return s;
  }
  frame.first_token = span.first_token;
  frame.token_count = span.token_count;
  ++cut_chunks_;
  auto section = encode_chunk(*header_, new_stream, frame, rows);
  if (!section) return section.error();
  return outcome(writer_->append(*section));
}

bool KeptSections::keeps(const FrameHeader& chunk) const {
  const auto stream = header_->stream_index(chunk.layer, static_cast<StreamKind>(chunk.stream));
  if (!cut_.keeps_layer(chunk.layer) || !stream) return false;
  if (is_opaque(header_->streams[*stream])) return rules_.opaque;
  const TokenSpan span = cut_.clip(chunk.first_token, chunk.token_count);
  // Not where the stream's window has moved on.
  return span.token_count > 0 && span.first_token + span.token_count > header_->streams[*stream].first_token;
}

/// Which segments' chunks use parameters and, through them, references: a later segment may name what stands in an earlier one.
Status KeptSections::find_users() {
  for (const FrameHeader& frame : card_.frames()) {
    if (!is_type(frame, SectionType::kChunk) || frame.parameter_digest == 0 || !keeps(frame)) continue;
    const std::uint32_t segment = new_segment_[frame.segment];
    if (!users_[frame.parameter_digest].insert(segment).second) continue;
    auto parameters = card_.parameters(frame.parameter_digest);
    if (!parameters) return parameters.error();
    if (parameters->record.references_digest != 0) users_[parameters->record.references_digest].insert(segment);
  }
  return {};
}

Status KeptSections::add_chunk(std::size_t index) {
  const FrameHeader& old = card_.frames()[index];
  if (!keeps(old)) return {};
  const bool opaque = old.stream == static_cast<std::uint8_t>(StreamKind::kOpaque);
  FrameHeader frame = old;
  const TokenSpan span = cut_.clip(old.first_token, old.token_count);
  frame.segment = new_segment_[old.segment];
  if (!opaque) frame.map_digest = map_digest_.at(frame.segment);
  const auto parameters = digest_of_.find({frame.parameter_digest, frame.segment});
  if (parameters != digest_of_.end()) frame.parameter_digest = parameters->second;
  if (!opaque && span.token_count != old.token_count) return add_cut_chunk(old, frame, span);
  frame.first_token = opaque ? 0 : span.first_token;
  if (is_lowered(old, frame)) {
    ++lowered_chunks_;
    return add_cut_planes(old, frame, span);
  }
  ++copied_chunks_;
  return copy_section(frame, index);
}

void KeptSections::note_dropped(const FrameHeader& frame) {
  const std::string name(name_of(static_cast<SectionType>(frame.section_type)));
  auto& dropped = dropped_;
  if (std::find(dropped.begin(), dropped.end(), name) == dropped.end()) dropped.push_back(name);
}

Status KeptSections::add_section(std::size_t index) {
  FrameHeader frame = card_.frames()[index];
  if (is_named(frame)) return segments_.empty() ? Status() : add_named(index);
  if (is_type(frame, SectionType::kChunk)) return add_chunk(index);
  if (is_type(frame, SectionType::kProvenance)) return {};  // gains a step instead
  const bool of_segment = frame.segment < new_segment_.size();
  const bool whole = of_segment && is_whole(frame.segment);
  // Copy-safe: nothing in it depends on tokens and layers.
  const bool safe = (frame.flags & kFrameCopySafe) != 0 && (frame.segment == kNoSegment || (rules_.any_copy_safe && whole));
  const bool told = is_type(frame, SectionType::kText) || is_type(frame, SectionType::kMedia);
  if (!safe && !(told && rules_.text_and_media && whole)) {
    if (is_optional(frame)) note_dropped(frame);
    return {};
  }
  if (of_segment) frame.segment = new_segment_[frame.segment];
  return copy_section(frame, index);
}

Status KeptSections::write(const CardHeader& header, CardWriter& writer) {
  header_ = &header;
  writer_ = &writer;
  same_streams_ = same_streams(card_.header(), header);
  const auto kept = [&](const std::vector<std::int32_t>& all) {
    return std::vector<std::int32_t>(all.begin() + static_cast<std::ptrdiff_t>(cut_.first),
                                     all.begin() + static_cast<std::ptrdiff_t>(cut_.end));
  };
  auto runs = card_.positions();
  if (!runs) return runs.error();
  positions_ = kept(expand_positions(*runs));
  if ((card_.header().flags & kHeaderTokensUnknown) == 0) {
    auto ids = card_.token_ids();
    if (!ids) return ids.error();
    token_ids_ = kept(*ids);
  }
  if (Status s = find_users(); !s) return s;
  for (std::uint32_t segment = 0; segment < segments_.size(); ++segment) {
    if (Status s = add_segment_sections(segment); !s) return s;
  }
  for (std::size_t i = 0; i < card_.frames().size(); ++i) {
    if (Status s = add_section(i); !s) return s;
  }
  return {};
}

}  // namespace cachecard
