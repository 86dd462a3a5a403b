#include <algorithm>
#include <map>

#include "cachecard/digest.hpp"
#include "cachecard/edit.hpp"
#include "codec/entropy_encoder.hpp"
#include "edit/cut.hpp"
#include "format/planes_layout.hpp"
#include "format/record_check.hpp"
#include "reader/chunk_rows.hpp"
#include "reader/payload.hpp"

namespace cachecard {
namespace {

bool is_type(const FrameHeader& frame, SectionType type) {
  return frame.section_type == static_cast<std::uint16_t>(type);
}

/// Whether a section that was written anew is what another one became.
bool is_written(const std::map<std::uint64_t, std::uint64_t>& digests, std::uint64_t digest) {
  return std::any_of(digests.begin(), digests.end(), [&](const auto& known) { return known.second == digest; });
}

template <class T>
Status outcome(const Result<T>& result) {
  if (!result) return result.error();
  return {};
}

class Trimmer {
 public:
  Trimmer(const CardReader& card, const Cut& cut, const TrimOptions& options)
      : card_(card), cut_(cut), options_(options) {}

  Result<TrimReport> run(ByteSink& sink);

 private:
  CardHeader make_header(std::span<const std::int32_t> positions);
  Status add_segment_sections(CardWriter& writer, std::uint32_t new_segment);
  Status add_map(CardWriter& writer, std::uint32_t new_segment, FrameHeader frame);
  Status add_chunk(CardWriter& writer, std::size_t index);
  Status add_cut_chunk(CardWriter& writer, const FrameHeader& old, FrameHeader frame, TokenSpan span);
  Status add_references(CardWriter& writer, FrameHeader frame, std::size_t index);
  Status add_cut_entropy(CardWriter& writer, const FrameHeader& old, FrameHeader frame, TokenSpan span);
  Status add_cut_planes(CardWriter& writer, const FrameHeader& old, FrameHeader frame, TokenSpan span);
  bool is_lowered(const FrameHeader& old, const FrameHeader& frame) const;
  std::uint8_t new_cap(const BitWidthMap& map, std::uint32_t stream) const;
  Status add_provenance(CardWriter& writer);
  Status copy_named(CardWriter& writer, std::size_t index);
  Status add_parameters(CardWriter& writer, const FrameHeader& frame, std::size_t index);
  Status copy_section(CardWriter& writer, const FrameHeader& frame, std::size_t index);
  void note_dropped(const FrameHeader& frame);

  const CardReader& card_;
  const Cut& cut_;
  const TrimOptions& options_;
  CardHeader header_;
  std::vector<std::uint32_t> old_segment_;          ///< by new segment
  std::vector<std::uint32_t> new_segment_;          ///< by old segment, kNoSegment where none is left
  std::vector<std::uint32_t> kept_streams_;         ///< old indices
  std::vector<std::int32_t> token_ids_;
  std::vector<std::int32_t> positions_;
  std::map<std::uint32_t, std::uint64_t> map_digest_;  ///< by new segment
  std::map<std::uint32_t, BitWidthMap> maps_;          ///< by new segment, where planes may be
  std::map<std::uint32_t, std::vector<std::uint8_t>> old_cap_;  ///< by new segment: what the old map says
  std::map<std::uint64_t, std::uint64_t> positions_digest_;   ///< old -> new
  std::map<std::uint64_t, std::uint64_t> references_digest_;  ///< old -> new
  std::map<std::uint64_t, std::uint64_t> parameters_digest_;  ///< old -> new
  TrimReport report_;
};

CardHeader Trimmer::make_header(std::span<const std::int32_t> positions) {
  CardHeader header = card_.header();
  header.token_count = cut_.end - cut_.first;
  if (cut_.first > 0) header.flags |= kHeaderNotAPrefix;
  if (!cut_.whole_layers) header.flags |= kHeaderPartialLayers;
  if (!cut_.whole_tokens && !positions.empty()) header.next_position = std::int64_t{positions.back()} + 1;
  header.restorable_from = header.restorable_from > cut_.first ? header.restorable_from - cut_.first : 0;
  header.streams.clear();
  for (std::uint32_t i = 0; i < card_.header().streams.size(); ++i) {
    StreamRecord stream = card_.header().streams[i];
    if (!cut_.keeps_layer(stream.layer)) continue;
    if (!is_opaque(stream)) {
      const TokenSpan span = cut_.clip(stream.first_token, stream.token_count);
      stream.first_token = span.first_token;
      stream.token_count = span.token_count;
    }
    kept_streams_.push_back(i);
    header.streams.push_back(stream);
  }
  header.segments.clear();
  for (std::uint32_t i = 0; i < card_.header().segments.size(); ++i) {
    SegmentRecord segment = card_.header().segments[i];
    const TokenSpan span = cut_.clip(segment.first_token, segment.token_count);
    new_segment_.push_back(span.token_count > 0 ? static_cast<std::uint32_t>(header.segments.size()) : kNoSegment);
    if (span.token_count == 0) continue;
    segment.first_token = span.first_token;
    segment.token_count = span.token_count;
    old_segment_.push_back(i);
    header.segments.push_back(segment);
  }
  return header;
}

/// The lower of what the stream has and what is asked for.
std::uint8_t Trimmer::new_cap(const BitWidthMap& map, std::uint32_t stream) const {
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

Status Trimmer::add_map(CardWriter& writer, std::uint32_t new_segment, FrameHeader frame) {
  auto old = card_.map(old_segment_[new_segment]);
  if (!old) return old.error();
  const SegmentRecord& old_record = card_.header().segments[old_segment_[new_segment]];
  const std::uint64_t skip = header_.segments[new_segment].first_token + cut_.first - old_record.first_token;
  BitWidthMap map;
  map.token_count = header_.segments[new_segment].token_count;
  for (std::uint32_t stream : kept_streams_) {
    map.base.push_back(old->base[stream]);
    map.cap.push_back(new_cap(*old, stream));
    const std::size_t first = BitWidthMap::first_use(card_.header(), stream);
    const std::size_t end = BitWidthMap::first_use(card_.header(), stream + 1);
    map.row_of.insert(map.row_of.end(), old->row_of.begin() + static_cast<std::ptrdiff_t>(first),
                      old->row_of.begin() + static_cast<std::ptrdiff_t>(end));
  }
  for (std::size_t row = 0; row < old->row_count(); ++row) {
    const auto kept = old->row(row).subspan(skip, map.token_count);
    map.rows.insert(map.rows.end(), kept.begin(), kept.end());
  }
  auto written = writer.add(frame, encode_map(map));
  if (!written) return written.error();
  map_digest_[new_segment] = written->stored_digest;
  if ((card_.prologue().required_features & (kFeaturePlanes | kFeatureEntropy)) != 0) {
    maps_[new_segment] = std::move(map);
    old_cap_[new_segment] = std::move(old->cap);
  }
  return {};
}

Status Trimmer::add_segment_sections(CardWriter& writer, std::uint32_t new_segment) {
  const SegmentRecord& segment = header_.segments[new_segment];
  const auto framed = [&](SectionType type) {
    FrameHeader frame = make_frame(type, new_segment);
    frame.first_token = segment.first_token;
    frame.token_count = segment.token_count;
    return frame;
  };
  if (!token_ids_.empty()) {
    const auto ids = std::span<const std::int32_t>(token_ids_).subspan(segment.first_token, segment.token_count);
    if (Status s = outcome(writer.add(framed(SectionType::kTokenIds), std::as_bytes(ids))); !s) return s;
  }
  const auto positions = std::span<const std::int32_t>(positions_).subspan(segment.first_token, segment.token_count);
  const auto runs = encode_positions(position_runs(positions));
  auto written = writer.add(framed(SectionType::kPositions), runs);
  if (!written) return written.error();
  const auto old = card_.find(SectionType::kPositions, old_segment_[new_segment]);
  positions_digest_[card_.frames()[*old].stored_digest] = written->stored_digest;
  return add_map(writer, new_segment, framed(SectionType::kBitWidthMap));
}

/// rope_table, lanes, references and parameters, so that what chunks name stands before them.
Status Trimmer::copy_named(CardWriter& writer, std::size_t index) {
  FrameHeader frame = card_.frames()[index];
  if (frame.layer != kNoLayer && !cut_.keeps_layer(frame.layer)) return {};
  if (frame.segment != kNoSegment) {
    const std::uint32_t segment = new_segment_[frame.segment];
    frame.segment = segment == kNoSegment ? 0 : segment;  // a later segment may still name it
  }
  if (is_type(frame, SectionType::kParameters)) return add_parameters(writer, frame, index);
  if (is_type(frame, SectionType::kReferences)) return add_references(writer, frame, index);
  return copy_section(writer, frame, index);
}

Status Trimmer::copy_section(CardWriter& writer, const FrameHeader& frame, std::size_t index) {
  EncodedSection section;
  section.buffer.resize(frame.stored_size);
  if (Status s = card_.read_stored(index, section.buffer); !s) return s;
  section.frame = frame;
  section.stored = section.buffer;
  return outcome(writer.append(section));
}

/// Those of the kept tokens. What led out of them belongs to a chunk that is cut at its front, which is refused.
Status Trimmer::add_references(CardWriter& writer, FrameHeader frame, std::size_t index) {
  const std::uint32_t old_segment = card_.frames()[index].segment;
  if (new_segment_[old_segment] == kNoSegment) return {};
  auto payload = card_.read_section(index);
  if (!payload) return payload.error();
  const SegmentRecord& old = card_.header().segments[old_segment];
  auto parsed = parse_references(*payload, old.token_count);
  if (!parsed) return at_payload(parsed.error(), card_.frames()[index]);
  const SegmentRecord& now = header_.segments[frame.segment];
  const std::uint64_t skip = now.first_token + cut_.first - old.first_token;
  const References kept = cut_references(*parsed, skip, now.token_count);
  frame.compressor = 0;
  const auto bytes = std::as_bytes(std::span(kept));
  const std::uint64_t digest = digest64(bytes);
  const bool again = is_written(references_digest_, digest);
  references_digest_[card_.frames()[index].stored_digest] = digest;
  return again ? Status() : outcome(writer.add(frame, bytes));
}

/// Verbatim, unless they name positions or references, which were written anew.
Status Trimmer::add_parameters(CardWriter& writer, const FrameHeader& frame, std::size_t index) {
  auto parameters = card_.parameters(frame.stored_digest);
  if (!parameters) return parameters.error();
  ParameterHeader& record = parameters->record;
  if (record.positions_digest == 0 && record.references_digest == 0) {
    parameters_digest_[frame.stored_digest] = frame.stored_digest;
    return copy_section(writer, frame, index);
  }
  const auto positions = positions_digest_.find(record.positions_digest);
  const auto references = references_digest_.find(record.references_digest);
  const bool lossy = record.codec >= static_cast<std::uint8_t>(Codec::kPlanes);
  const bool is_gone = (record.positions_digest != 0 && positions == positions_digest_.end()) ||
                       (record.references_digest != 0 && references == references_digest_.end());
  if (lossy && is_gone) return {};  // of a segment that is gone: nobody names them
  record.positions_digest = positions == positions_digest_.end() ? 0 : positions->second;
  record.references_digest = references == references_digest_.end() ? 0 : references->second;
  const std::vector<std::byte> payload = encode_parameters(*parameters);
  const std::uint64_t digest = digest64(payload);
  const bool again = is_written(parameters_digest_, digest);
  parameters_digest_[frame.stored_digest] = digest;
  FrameHeader anew = frame;
  anew.compressor = 0;
  return again ? Status() : outcome(writer.add(anew, payload));
}

/// Whether the chunk has planes that the new map no longer gives it.
bool Trimmer::is_lowered(const FrameHeader& old, const FrameHeader& frame) const {
  if (old.codec != static_cast<std::uint8_t>(Codec::kPlanes)) return false;
  const auto kind = static_cast<StreamKind>(old.stream);
  const std::size_t before = *card_.header().stream_index(old.layer, kind);
  const std::size_t after = *header_.stream_index(old.layer, kind);
  return old_cap_.at(frame.segment)[before] != maps_.at(frame.segment).cap[after];
}

/// Codes and scales of the kept tokens are moved; planes that go are left behind.
Status Trimmer::add_cut_planes(CardWriter& writer, const FrameHeader& old, FrameHeader frame, TokenSpan span) {
  const std::size_t stream = *card_.header().stream_index(old.layer, static_cast<StreamKind>(old.stream));
  std::vector<std::byte> scratch(card_.scratch_bytes(stream));
  auto rows = ChunkRows::open(card_, old, scratch);
  if (!rows) return rows.error();
  frame.first_token = span.first_token;
  frame.token_count = span.token_count;
  auto kept = planes_tokens(header_, maps_.at(frame.segment), frame);
  if (!kept) return kept.error();
  auto payload = cut_planes(*rows->planes_chunk(), span.first_token + cut_.first - old.first_token, *kept,
                            frame.digest_size);
  return append_cut(writer, frame, std::move(payload));
}

/// The first tokens of a chunk, coded anew from its rows.
Status Trimmer::add_cut_entropy(CardWriter& writer, const FrameHeader& old, FrameHeader frame, TokenSpan span) {
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
  return append_cut(writer, frame, std::move(payload));
}

Status Trimmer::add_cut_chunk(CardWriter& writer, const FrameHeader& old, FrameHeader frame, TokenSpan span) {
  if (old.codec == static_cast<std::uint8_t>(Codec::kEntropy)) {
    ++report_.cut_chunks;
    return add_cut_entropy(writer, old, frame, span);
  }
  if (old.codec == static_cast<std::uint8_t>(Codec::kPlanes)) {
    ++report_.cut_chunks;
    return add_cut_planes(writer, old, frame, span);
  }
  const auto kind = static_cast<StreamKind>(old.stream);
  const std::size_t old_stream = *card_.header().stream_index(old.layer, kind);
  const std::size_t new_stream = *header_.stream_index(old.layer, kind);
  const StreamRecord& stream = header_.streams[new_stream];
  std::vector<std::byte> rows(span.token_count * row_bytes(stream, static_cast<DType>(stream.dtype)));
  std::vector<std::byte> scratch(card_.scratch_bytes(old_stream));
  if (Status s = card_.read_rows(old_stream, span.first_token + cut_.first, span.token_count, rows, scratch); !s) {
    return s;
  }
  frame.first_token = span.first_token;
  frame.token_count = span.token_count;
  ++report_.cut_chunks;
  auto section = encode_chunk(header_, new_stream, frame, rows);
  if (!section) return section.error();
  return outcome(writer.append(*section));
}

Status Trimmer::add_chunk(CardWriter& writer, std::size_t index) {
  const FrameHeader& old = card_.frames()[index];
  if (!cut_.keeps_layer(old.layer)) return {};
  FrameHeader frame = old;
  const TokenSpan span = cut_.clip(old.first_token, old.token_count);
  const bool opaque = old.stream == static_cast<std::uint8_t>(StreamKind::kOpaque);
  if (!opaque && span.token_count == 0) return {};
  frame.segment = new_segment_[old.segment];
  if (!opaque) frame.map_digest = map_digest_.at(frame.segment);
  if (frame.parameter_digest != 0) frame.parameter_digest = parameters_digest_.at(frame.parameter_digest);
  if (!opaque && span.token_count != old.token_count) return add_cut_chunk(writer, old, frame, span);
  frame.first_token = opaque ? 0 : span.first_token;
  if (is_lowered(old, frame)) {
    ++report_.lowered_chunks;
    return add_cut_planes(writer, old, frame, span);
  }
  ++report_.copied_chunks;
  return copy_section(writer, frame, index);
}

Status Trimmer::add_provenance(CardWriter& writer) {
  auto entries = card_.provenance();
  if (!entries) return entries.error();
  ProvenanceEntry entry;
  entry.hop = entries->empty() ? 0 : entries->back().hop;
  entry.operation = ProvenanceOp::kTrim;
  entry.time = options_.time.value_or(0);
  entry.parent_root = card_.trailer().root;
  entry.text = describe(cut_, options_);
  entries->push_back(std::move(entry));
  return outcome(writer.add(make_frame(SectionType::kProvenance), encode_provenance(*entries)));
}

void Trimmer::note_dropped(const FrameHeader& frame) {
  const std::string name(name_of(static_cast<SectionType>(frame.section_type)));
  auto& dropped = report_.dropped;
  if (std::find(dropped.begin(), dropped.end(), name) == dropped.end()) dropped.push_back(name);
}

Result<TrimReport> Trimmer::run(ByteSink& sink) {
  auto runs = card_.positions();
  if (!runs) return runs.error();
  const auto kept = [&](const std::vector<std::int32_t>& all) {
    return std::vector<std::int32_t>(all.begin() + static_cast<std::ptrdiff_t>(cut_.first),
                                     all.begin() + static_cast<std::ptrdiff_t>(cut_.end));
  };
  positions_ = kept(expand_positions(*runs));
  if ((card_.header().flags & kHeaderTokensUnknown) == 0) {
    auto ids = card_.token_ids();
    if (!ids) return ids.error();
    token_ids_ = kept(*ids);
  }
  header_ = make_header(positions_);
  auto writer = CardWriter::create(sink, header_, card_.prologue().required_features, 0, card_.limits());
  if (!writer) return writer.error();
  for (std::uint32_t segment = 0; segment < header_.segments.size(); ++segment) {
    if (Status s = add_segment_sections(*writer, segment); !s) return s.error();
  }
  for (std::size_t i = 0; i < card_.frames().size(); ++i) {
    const FrameHeader& frame = card_.frames()[i];
    const bool named = is_type(frame, SectionType::kRopeTable) || is_type(frame, SectionType::kParameters) ||
                       is_type(frame, SectionType::kLanes) || is_type(frame, SectionType::kReferences);
    const bool chunk = is_type(frame, SectionType::kChunk);
    // Copy-safe: nothing in it depends on tokens and layers. Provenance gains a step instead.
    const bool safe = (frame.flags & kFrameCopySafe) != 0 && frame.segment == kNoSegment;
    if (named || chunk) {
      if (Status s = named ? copy_named(*writer, i) : add_chunk(*writer, i); !s) return s.error();
    } else if (safe && !is_type(frame, SectionType::kProvenance)) {
      if (Status s = copy_section(*writer, frame, i); !s) return s.error();
    } else if (is_type(frame, SectionType::kText) || is_type(frame, SectionType::kMedia) ||
               is_type(frame, SectionType::kSourceLayout) || is_type(frame, SectionType::kCanary) || name_of(static_cast<SectionType>(frame.section_type)) == "unknown") {
      note_dropped(frame);
    }
  }
  if (Status s = add_provenance(*writer); !s) return s.error();
  auto written = writer->finish();
  if (!written) return written.error();
  report_.written = *written;
  return report_;
}

}  // namespace

Result<TrimReport> trim(const CardReader& card, ByteSink& sink, const TrimOptions& options) {
  auto cut = plan_cut(card.header(), options);
  if (!cut) return cut.error();
  if (Status s = check_restorable(card.header(), *cut); !s) return s.error();
  return Trimmer(card, *cut, options).run(sink);
}

}  // namespace cachecard
