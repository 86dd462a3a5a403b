#include "writer/card_builder.hpp"

#include <algorithm>

#include "cachecard/digest.hpp"
#include "writer/card_order.hpp"

namespace cachecard {
namespace {

template <class T>
Status outcome(const Result<T>& result) {
  if (!result) return result.error();
  return {};
}

}  // namespace

void CardBuilder::continue_behind(StandingSections standing) {
  written_ = std::move(standing.digests);
  if (entropy_) entropy_->share(std::move(standing.lanes));
}

Status CardBuilder::add_rope_table() {
  const RopeTable* table = source_.rope_table();
  if (table == nullptr) return {};
  const std::vector<std::byte> payload = encode_rope_table(*table);
  rope_table_digest_ = digest64(payload);
  if (!written_.insert(rope_table_digest_).second) return {};
  return outcome(writer_.add(make_frame(SectionType::kRopeTable), payload));
}

Status CardBuilder::add_segments(std::uint32_t first) {
  first_segment_ = first;
  for (std::uint32_t segment = first; segment < header_.segments.size(); ++segment) {
    for (const ChunkJob& job : plan_segment(header_, segment, options_)) total_ += job_bytes(header_, job);
  }
  for (std::uint32_t segment = first; segment < header_.segments.size(); ++segment) {
    if (Status s = add_segment(segment); !s) return s;
  }
  return {};
}

Status CardBuilder::add_opaque() {
  std::vector<ChunkJob> jobs;
  for (const ChunkJob& job : plan_segment(header_, static_cast<std::uint32_t>(header_.segments.size() - 1), options_)) {
    if (is_opaque(header_.streams[job.stream])) jobs.push_back(job);
  }
  for (const ChunkJob& job : jobs) total_ += job_bytes(header_, job);
  return add_chunks(jobs);
}

Status CardBuilder::add_source_layout() {
  const SourceLayout& layout = *source_.source_layout();
  FrameHeader frame = make_frame(SectionType::kSourceLayout);
  frame.compressor = static_cast<std::uint8_t>(Compressor::kZstd);
  if (Status s = outcome(writer_.add(frame, encode_source_layout(layout))); !s) return s;
  return add_literals(layout.record.literal_size);
}

Status CardBuilder::add_literals(std::uint64_t size) {
  for (std::uint64_t at = 0; at < size; at += kPieceBytes) {
    std::vector<std::byte> piece(std::min(kPieceBytes, size - at));
    if (Status s = source_.read_literals(at, piece); !s) return s;
    FrameHeader frame = make_frame(SectionType::kSourceBytes);
    frame.compressor = static_cast<std::uint8_t>(Compressor::kZstd);
    if (Status s = outcome(writer_.add(frame, piece)); !s) return s;
  }
  return {};
}

std::span<const std::int32_t> CardBuilder::segment_span(std::span<const std::int32_t> all,
                                                        std::uint32_t segment) const {
  const SegmentRecord& s = header_.segments[segment];
  return all.subspan(s.first_token, s.token_count);
}

Status CardBuilder::add_segment(std::uint32_t segment) {
  const SegmentRecord& record = header_.segments[segment];
  const auto framed = [&](SectionType type) {
    FrameHeader frame = make_frame(type, segment);
    frame.first_token = record.first_token;
    frame.token_count = record.token_count;
    return frame;
  };
  if ((header_.flags & kHeaderTokensUnknown) == 0) {
    const auto ids = std::as_bytes(segment_span(source_.token_ids(), segment));
    if (Status s = outcome(writer_.add(framed(SectionType::kTokenIds), ids)); !s) return s;
  }
  if (segment == first_segment_ && !source_.text().empty()) {
    const auto text = std::as_bytes(std::span(source_.text()));
    if (Status s = outcome(writer_.add(framed(SectionType::kText), text)); !s) return s;
  }
  const auto runs = position_runs(segment_span(source_.positions(), segment));
  auto positions = writer_.add(framed(SectionType::kPositions), encode_positions(runs));
  if (!positions) return positions.error();
  if (entropy_) {
    if (Status s = entropy_->prepare(segment, rope_table_digest_, positions->stored_digest); !s) return s;
    predicted_error_ += entropy_->predicted_error();
  }
  const BitWidthMap widths = planes_    ? planes_->map(segment)
                             : entropy_ ? entropy_->map()
                                        : uniform_map(header_, record.token_count);
  FrameHeader map_frame = framed(SectionType::kBitWidthMap);
  if (entropy_) map_frame.compressor = static_cast<std::uint8_t>(entropy_->map_compressor());
  auto map = writer_.add(map_frame, encode_map(widths));
  if (!map) return map.error();
  map_digest_ = map->stored_digest;
  if (Status s = add_parameters(segment); !s) return s;
  if (planes_) {
    if (Status s = add_planes_parameters(segment, positions->stored_digest); !s) return s;
  }
  if (entropy_) {
    if (Status s = add_entropy_sections(segment); !s) return s;
  }
  return add_chunks(plan_segment(header_, segment, options_));
}

Status CardBuilder::add_parameters(std::uint32_t segment) {
  for (const StreamRecord& stream : header_.streams) {
    if (stream.hadamard_size == 1 || parameters_of_.contains(stream.hadamard_size)) continue;
    Parameters parameters;
    parameters.record.codec = static_cast<std::uint8_t>(Codec::kGgml);
    parameters.record.hadamard_size = stream.hadamard_size;
    const std::vector<std::byte> payload = encode_parameters(parameters);
    const std::uint64_t digest = digest64(payload);
    parameters_of_[stream.hadamard_size] = digest;
    if (!written_.insert(digest).second) continue;
    if (Status s = outcome(writer_.add(make_frame(SectionType::kParameters, segment), payload)); !s) return s;
  }
  return {};
}

/// One section for each distinct content: streams without means often share theirs.
Status CardBuilder::add_planes_parameters(std::uint32_t segment, std::uint64_t positions_digest) {
  auto all = planes_->prepare(segment, rope_table_digest_, positions_digest);
  if (!all) return all.error();
  lossy_parameters_.assign(header_.streams.size(), 0);
  for (std::size_t s = 0; s < all->size(); ++s) {
    if (!(*all)[s]) continue;
    if (Status w = add_lossy_parameters(segment, s, *(*all)[s]); !w) return w;
  }
  return {};
}

Status CardBuilder::add_lossy_parameters(std::uint32_t segment, std::size_t stream, const Parameters& parameters) {
  const std::vector<std::byte> payload = encode_parameters(parameters);
  lossy_parameters_[stream] = digest64(payload);
  if (!written_.insert(lossy_parameters_[stream]).second) return {};
  return outcome(writer_.add(make_frame(SectionType::kParameters, segment), payload));
}

/// Lanes of all streams in one section, unless those of an earlier segment serve; references once for each list of spans.
Status CardBuilder::add_entropy_sections(std::uint32_t segment) {
  std::uint64_t lanes_digest = 0;
  if (!entropy_->shares_lanes()) {
    const std::vector<std::byte> lanes = encode_lanes(entropy_->lanes());
    lanes_digest = digest64(lanes);
    if (written_.insert(lanes_digest).second) {
      if (Status s = outcome(writer_.add(make_frame(SectionType::kLanes, segment), lanes)); !s) return s;
    }
  }
  std::vector<std::uint64_t> references;
  for (const References& of : entropy_->references()) {
    const auto payload = std::as_bytes(std::span(of));
    references.push_back(digest64(payload));
    if (!written_.insert(references.back()).second) continue;
    if (Status s = outcome(writer_.add(make_frame(SectionType::kReferences, segment), payload)); !s) return s;
  }
  lossy_parameters_.assign(header_.streams.size(), 0);
  for (std::size_t s = 0; s < header_.streams.size(); ++s) {
    if (!entropy_->codes(s)) continue;
    const std::uint64_t digest = references.empty() ? 0 : references[entropy_->references_of(s)];
    if (Status w = add_lossy_parameters(segment, s, entropy_->parameters(s, lanes_digest, digest)); !w) return w;
  }
  return {};
}

Status CardBuilder::add_chunks(std::span<const ChunkJob> jobs) {
  const std::size_t width = std::max<std::size_t>(1, options_.parallel.width);
  slots_.resize(width);
  for (std::size_t at = 0; at < jobs.size(); at += width) {
    const auto batch = jobs.subspan(at, std::min(width, jobs.size() - at));
    if (Status s = add_batch(batch); !s) return s;
    if (options_.progress && !options_.progress(done_, total_)) {
      return Error{ErrorCode::kInterrupted, kNoOffset, {}, "stopped while writing chunks"};
    }
  }
  return {};
}

Status CardBuilder::add_batch(std::span<const ChunkJob> jobs) {
  struct Batch {
    CardBuilder& builder;
    std::span<const ChunkJob> jobs;
    std::vector<Status> statuses;
  } batch{*this, jobs, std::vector<Status>(jobs.size())};
  options_.parallel(
      jobs.size(),
      [](void* context, std::size_t i) {
        auto& b = *static_cast<Batch*>(context);
        b.statuses[i] = b.builder.encode(b.jobs[i], i);
      },
      &batch);
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    if (!batch.statuses[i]) return batch.statuses[i];
    if (Status s = outcome(writer_.append(slots_[i].section)); !s) return s;
    if (slots_[i].raw) {
      const StreamRecord& stream = header_.streams[jobs[i].stream];
      raw_chunks_.push_back({stream.layer, static_cast<StreamKind>(stream.stream), jobs[i].first, jobs[i].count,
                             *slots_[i].raw});
    }
    done_ += job_bytes(header_, jobs[i]);
  }
  return {};
}

Status CardBuilder::encode(const ChunkJob& job, std::size_t slot) {
  const StreamRecord& stream = header_.streams[job.stream];
  std::vector<std::byte>& rows = slots_[slot].rows;
  slots_[slot].raw.reset();
  rows.resize(job_bytes(header_, job));
  FrameHeader frame = make_frame(SectionType::kChunk, job.segment);
  frame.compressor = static_cast<std::uint8_t>(options_.compressor);
  if (is_opaque(stream)) {
    if (Status s = source_.read_opaque(job.stream, job.first, rows); !s) return s;
  } else {
    if (Status s = source_.read_rows(job.stream, job.first, job.count, rows); !s) return s;
    frame.first_token = job.first;
    frame.token_count = job.count;
    frame.map_digest = map_digest_;
    if (stream.hadamard_size > 1) frame.parameter_digest = parameters_of_.at(stream.hadamard_size);
    if (planes_ && planes_->codes(job.stream)) {
      auto coded = encode_planes_chunk(job, frame, slot);
      if (!coded) return coded.error();
      if (*coded) return {};
    }
    if (entropy_ && entropy_->codes(job.stream)) {
      auto coded = encode_entropy_chunk(job, frame, slot);
      if (!coded) return coded.error();
      if (*coded) return {};
    }
  }
  auto section = encode_chunk(header_, job.stream, frame, rows, options_.zstd_level);
  if (!section) return section.error();
  slots_[slot].section = std::move(*section);
  return {};
}

FrameHeader CardBuilder::lossy_frame(const ChunkJob& job, FrameHeader frame, Codec codec) const {
  const StreamRecord& stream = header_.streams[job.stream];
  frame.layer = stream.layer;
  frame.stream = stream.stream;
  frame.dtype = stream.dtype;
  frame.codec = static_cast<std::uint8_t>(codec);
  frame.compressor = static_cast<std::uint8_t>(Compressor::kNone);  // lossy codes are as dense as they get
  frame.parameter_digest = lossy_parameters_[job.stream];
  return frame;
}

/// False where the chunk has to stay raw.
Result<bool> CardBuilder::encode_entropy_chunk(const ChunkJob& job, FrameHeader frame, std::size_t slot) {
  const std::span<const std::byte> rows = slots_[slot].rows;
  frame = lossy_frame(job, frame, Codec::kEntropy);
  EntropyEncoded coded = entropy_->encode(job.stream, frame, rows);
  if (coded.outcome == EntropyOutcome::kNonFinite && !options_.entropy->keep_nonfinite) {
    const std::size_t size = rows.size() / job.count;
    return nonfinite_error("entropy", header_.streams[job.stream], job.first + coded.token,
                           rows.subspan(coded.token * size, size));
  }
  if (coded.outcome != EntropyOutcome::kCoded) {
    slots_[slot].raw = coded.outcome == EntropyOutcome::kNonFinite    ? RawReason::kNonFinite
                       : coded.outcome == EntropyOutcome::kOutOfReach ? RawReason::kOutOfReach
                                                                      : RawReason::kLarger;
    return false;
  }
  EncodedSection& section = slots_[slot].section;
  section.buffer = std::move(coded.payload);
  section.stored = section.buffer;
  frame.stored_size = frame.decoded_size = frame.digest_size = section.stored.size();
  frame.stored_digest = digest64(section.stored);
  section.frame = frame;
  return true;
}

/// False where the chunk has to stay raw.
Result<bool> CardBuilder::encode_planes_chunk(const ChunkJob& job, FrameHeader frame, std::size_t slot) {
  const StreamRecord& stream = header_.streams[job.stream];
  const std::span<const std::byte> rows = slots_[slot].rows;
  frame = lossy_frame(job, frame, Codec::kPlanes);
  PlanesEncoded coded = planes_->encode(job.stream, frame, rows);
  switch (coded.outcome) {
    case PlanesOutcome::kCoded:
      break;
    case PlanesOutcome::kNonFinite:
      if (!options_.planes->keep_nonfinite) {
        const std::size_t size = rows.size() / job.count;
        return nonfinite_error("planes", stream, job.first + coded.token, rows.subspan(coded.token * size, size));
      }
      slots_[slot].raw = RawReason::kNonFinite;
      return false;
    case PlanesOutcome::kOutOfReach:
      slots_[slot].raw = RawReason::kOutOfReach;
      return false;
    case PlanesOutcome::kWorse:
      slots_[slot].raw = RawReason::kWorse;
      return false;
  }
  EncodedSection& section = slots_[slot].section;
  section.buffer = std::move(coded.payload);
  section.stored = section.buffer;
  frame.stored_size = frame.decoded_size = section.stored.size();
  frame.digest_size = coded.digest_size;
  frame.stored_digest = digest64(section.stored.first(coded.digest_size));
  section.frame = frame;
  return true;
}

std::uint64_t required_features(const CardHeader& header, const CardOptions& options,
                                bool has_source_layout) {
  std::uint64_t features = options.planes ? kFeaturePlanes : options.entropy ? kFeatureEntropy : 0;
  const bool has_token_rows = options.entropy && !options.entropy->token_offsets.empty();  // which zstd halves
  if (options.compressor != Compressor::kNone || has_source_layout || has_token_rows) features |= kFeatureZstd;
  for (const StreamRecord& stream : header.streams) {
    const DTypeInfo* info = dtype_info(static_cast<DType>(stream.dtype));
    if (info != nullptr && info->block_elements != 1) features |= kFeatureGgml;
  }
  return features;
}

Status check_card_options(const CacheSource& source, const CardHeader& header, const CardOptions& options) {
  const bool tokens_known = (header.flags & kHeaderTokensUnknown) == 0;
  if (source.positions().size() != header.token_count ||
      (tokens_known && source.token_ids().size() != header.token_count)) {
    return Error{ErrorCode::kInvalidArgument, kNoOffset, "header.token_count",
                 "the source's token ids or positions are not as many"};
  }
  if (options.planes) {
    if (Status s = PlanesPlan(source, header, options).check_options(); !s) return s;
  }
  return options.entropy ? EntropyPlan(source, header, options).check_options() : Status();
}

}  // namespace cachecard
