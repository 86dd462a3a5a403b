#include <algorithm>
#include <map>
#include <mutex>

#include "base/checked.hpp"
#include "cachecard/writer.hpp"
#include "format/record_check.hpp"

namespace cachecard {
namespace {

constexpr std::uint64_t kPieceBytes = 16u << 20;  ///< opaque state and literals are cut here

/// A chunk to make: rows of a stream, or a piece of an opaque one.
struct ChunkJob {
  std::size_t stream = 0;
  std::uint32_t segment = 0;
  std::uint64_t first = 0;  ///< token, or byte of an opaque stream
  std::uint64_t count = 0;
};

bool is_opaque(const StreamRecord& stream) {
  return stream.stream == static_cast<std::uint8_t>(StreamKind::kOpaque);
}

std::uint64_t job_bytes(const CardHeader& header, const ChunkJob& job) {
  const StreamRecord& stream = header.streams[job.stream];
  return is_opaque(stream) ? job.count
                           : job.count * row_bytes(stream, static_cast<DType>(stream.dtype));
}

/// Chunks of one stream inside one segment.
void plan_stream(const CardHeader& header, std::size_t index, std::uint32_t segment,
                 const CardOptions& options, std::vector<ChunkJob>& jobs) {
  const StreamRecord& stream = header.streams[index];
  if (is_opaque(stream)) {
    if (segment + 1 != header.segments.size()) return;
    for (std::uint64_t at = 0; at < stream.opaque_size; at += kPieceBytes) {
      jobs.push_back({index, segment, at, std::min(kPieceBytes, stream.opaque_size - at)});
    }
    return;
  }
  const SegmentRecord& s = header.segments[segment];
  const std::uint64_t first = std::max(s.first_token, stream.first_token);
  const std::uint64_t end = std::min(s.first_token + s.token_count, stream.first_token + stream.token_count);
  if (first >= end) return;
  const std::uint64_t size = row_bytes(stream, static_cast<DType>(stream.dtype));
  for (const TokenSpan& span : plan_chunks(first, end - first, size, options.chunk_tokens, options.limits)) {
    jobs.push_back({index, segment, span.first_token, span.token_count});
  }
}

/// Jobs of a segment in the order that its record says.
std::vector<ChunkJob> plan_segment(const CardHeader& header, std::uint32_t segment,
                                   const CardOptions& options) {
  std::vector<ChunkJob> jobs;
  for (std::size_t i = 0; i < header.streams.size(); ++i) plan_stream(header, i, segment, options, jobs);
  if (header.segments[segment].chunk_order == static_cast<std::uint8_t>(ChunkOrder::kSpanMajor)) {
    std::stable_sort(jobs.begin(), jobs.end(),
                     [](const ChunkJob& a, const ChunkJob& b) { return a.first < b.first; });
  }
  return jobs;
}

/// Writes the sections of one card from a source.
class CardBuilder {
 public:
  CardBuilder(const CacheSource& source, const CardHeader& header, CardWriter& writer,
              const CardOptions& options)
      : source_(source), header_(header), writer_(writer), options_(options) {}

  Status run();

 private:
  Status add_source_layout();
  Status add_literals(std::uint64_t size);
  Status add_segment(std::uint32_t segment);
  Status add_parameters(std::uint32_t segment);
  Status add_chunks(std::uint32_t segment);
  Status add_batch(std::span<const ChunkJob> jobs);
  Status encode(const ChunkJob& job, std::size_t slot);
  std::span<const std::int32_t> segment_span(std::span<const std::int32_t> all, std::uint32_t segment) const;

  struct Slot {
    std::vector<std::byte> rows;
    EncodedSection section;
  };

  const CacheSource& source_;
  const CardHeader& header_;
  CardWriter& writer_;
  const CardOptions& options_;
  std::map<std::uint32_t, std::uint64_t> parameters_of_;  ///< Hadamard n -> digest
  std::uint64_t map_digest_ = 0;
  std::vector<Slot> slots_;
  std::uint64_t done_ = 0;
  std::uint64_t total_ = 0;
};

template <class T>
Status outcome(const Result<T>& result) {
  if (!result) return result.error();
  return {};
}

Status CardBuilder::run() {
  if (options_.source_layout && source_.source_layout() != nullptr) {
    if (Status s = add_source_layout(); !s) return s;
  }
  if (const RopeTable* table = source_.rope_table()) {
    if (Status s = outcome(writer_.add(make_frame(SectionType::kRopeTable), encode_rope_table(*table))); !s) {
      return s;
    }
  }
  for (std::uint32_t segment = 0; segment < header_.segments.size(); ++segment) {
    for (const ChunkJob& job : plan_segment(header_, segment, options_)) total_ += job_bytes(header_, job);
  }
  for (std::uint32_t segment = 0; segment < header_.segments.size(); ++segment) {
    if (Status s = add_segment(segment); !s) return s;
  }
  const ProvenanceEntry entries[] = {options_.provenance};
  return outcome(writer_.add(make_frame(SectionType::kProvenance), encode_provenance(entries)));
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
  if (segment == 0 && !source_.text().empty()) {
    const auto text = std::as_bytes(std::span(source_.text()));
    if (Status s = outcome(writer_.add(framed(SectionType::kText), text)); !s) return s;
  }
  const auto runs = position_runs(segment_span(source_.positions(), segment));
  if (Status s = outcome(writer_.add(framed(SectionType::kPositions), encode_positions(runs))); !s) return s;
  auto map = writer_.add(framed(SectionType::kBitWidthMap), encode_map(uniform_map(header_, record.token_count)));
  if (!map) return map.error();
  map_digest_ = map->stored_digest;
  if (Status s = add_parameters(segment); !s) return s;
  return add_chunks(segment);
}

Status CardBuilder::add_parameters(std::uint32_t segment) {
  for (const StreamRecord& stream : header_.streams) {
    if (stream.hadamard_size == 1 || parameters_of_.contains(stream.hadamard_size)) continue;
    Parameters parameters;
    parameters.record.codec = static_cast<std::uint8_t>(Codec::kGgml);
    parameters.record.hadamard_size = stream.hadamard_size;
    auto frame = writer_.add(make_frame(SectionType::kParameters, segment), encode_parameters(parameters));
    if (!frame) return frame.error();
    parameters_of_[stream.hadamard_size] = frame->stored_digest;
  }
  return {};
}

Status CardBuilder::add_chunks(std::uint32_t segment) {
  const std::vector<ChunkJob> jobs = plan_segment(header_, segment, options_);
  const std::size_t width = std::max<std::size_t>(1, options_.parallel.width);
  slots_.resize(width);
  for (std::size_t at = 0; at < jobs.size(); at += width) {
    const auto batch = std::span(jobs).subspan(at, std::min(width, jobs.size() - at));
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
    done_ += job_bytes(header_, jobs[i]);
  }
  return {};
}

Status CardBuilder::encode(const ChunkJob& job, std::size_t slot) {
  const StreamRecord& stream = header_.streams[job.stream];
  std::vector<std::byte>& rows = slots_[slot].rows;
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
  }
  auto section = encode_chunk(header_, job.stream, frame, rows, options_.zstd_level);
  if (!section) return section.error();
  slots_[slot].section = std::move(*section);
  return {};
}

std::uint64_t required_features(const CardHeader& header, const CardOptions& options,
                                bool has_source_layout) {
  std::uint64_t features = 0;
  if (options.compressor != Compressor::kNone || has_source_layout) features |= kFeatureZstd;
  for (const StreamRecord& stream : header.streams) {
    const DTypeInfo* info = dtype_info(static_cast<DType>(stream.dtype));
    if (info != nullptr && info->block_elements != 1) features |= kFeatureGgml;
  }
  return features;
}

}  // namespace

Status CacheSource::read_opaque(std::size_t, std::uint64_t, std::span<std::byte>) const {
  return Error{ErrorCode::kInternal, kNoOffset, {}, "this source has no opaque stream"};
}

Status CacheSource::read_literals(std::uint64_t, std::span<std::byte>) const {
  return Error{ErrorCode::kInternal, kNoOffset, {}, "this source has no literals"};
}

std::vector<TokenSpan> plan_chunks(std::uint64_t first_token, std::uint64_t token_count,
                                   std::uint64_t row_bytes, std::uint64_t chunk_tokens,
                                   const Limits& limits) {
  // A joined remainder makes a chunk up to half as long again: that must still fit.
  const std::uint64_t fits = std::max<std::uint64_t>(1, limits.section_bytes / row_bytes);
  std::uint64_t span = std::min(std::max<std::uint64_t>(1, chunk_tokens), std::max<std::uint64_t>(1, fits * 2 / 3));
  if (span >= 64) span -= span % 64;
  std::vector<TokenSpan> spans;
  while (token_count > 0) {
    std::uint64_t count = std::min(span, token_count);
    const std::uint64_t rest = token_count - count;
    if (rest > 0 && rest * 2 < span && (count + rest) <= fits) count += rest;
    spans.push_back({first_token, count});
    first_token += count;
    token_count -= count;
  }
  return spans;
}

Result<WriteReport> write_card(const CacheSource& source, ByteSink& sink, const CardOptions& options) {
  CardHeader header = source.header();
  for (SegmentRecord& segment : header.segments) {
    segment.chunk_order = static_cast<std::uint8_t>(options.chunk_order);
  }
  const bool tokens_known = (header.flags & kHeaderTokensUnknown) == 0;
  if (source.positions().size() != header.token_count ||
      (tokens_known && source.token_ids().size() != header.token_count)) {
    return Error{ErrorCode::kInvalidArgument, kNoOffset, "header.token_count",
                 "the source's token ids or positions are not as many"};
  }
  const bool has_layout = options.source_layout && source.source_layout() != nullptr;
  std::uint64_t optional = has_layout ? kFeatureSourceLayout : 0;
  if (!source.text().empty()) optional |= kFeatureText;
  auto writer = CardWriter::create(sink, header, required_features(header, options, has_layout), optional,
                                   options.limits);
  if (!writer) return writer.error();
  if (Status s = CardBuilder(source, header, *writer, options).run(); !s) return s.error();
  return writer->finish();
}

}  // namespace cachecard
