#include "stored_form.hpp"

#include <algorithm>
#include <set>

#include "cachecard/digest.hpp"

namespace cachecard::gguf {
namespace {

constexpr std::uint32_t kUsualLevel = 3;
constexpr std::uint32_t kMaxLevel = 22;

SectionType type_of(const FrameHeader& frame) { return static_cast<SectionType>(frame.section_type); }
bool is_chunk(const FrameHeader& frame) { return type_of(frame) == SectionType::kChunk; }

Error form_error(const FrameHeader& frame, std::string detail) {
  return {ErrorCode::kForeignInput, kNoOffset, "cachecard.frames",
          std::string(name_of(type_of(frame))) + " section: " + std::move(detail)};
}

/// A section that keys say, made of them as a writer would.
std::vector<std::byte> told_payload(const FrameHeader& frame, const CacheSource& source) {
  const auto bytes = [](std::span<const std::byte> in) {
    return std::vector<std::byte>(in.begin(), in.end());
  };
  const auto part = [&frame](std::span<const std::int32_t> all) {
    const std::uint64_t first = std::min<std::uint64_t>(frame.first_token, all.size());
    return all.subspan(first, std::min<std::uint64_t>(frame.token_count, all.size() - first));
  };
  switch (type_of(frame)) {
    case SectionType::kTokenIds:
      return bytes(std::as_bytes(part(source.token_ids())));
    case SectionType::kPositions:
      return encode_positions(position_runs(part(source.positions())));
    default:
      return bytes(std::as_bytes(std::span(source.text())));
  }
}

/// Whether the keys' RoPE table is the first of the sections, which are carried.
bool same_rope(const StoredForm& form, const RopeTable* table) {
  for (const FrameHeader& frame : form.frames) {
    if (type_of(frame) != SectionType::kRopeTable) continue;
    return table != nullptr && digest64(encode_rope_table(*table)) == frame.stored_digest;
  }
  return table == nullptr;
}

/// What is written anew: sizes and digests are the writer's to say.
FrameHeader bare(FrameHeader frame) {
  frame.stored_size = frame.decoded_size = frame.digest_size = frame.stored_digest = frame.offset = 0;
  frame.check = 0;
  return frame;
}

/// A card does not say its zstd level, and all its chunks have the same one: the first compressed chunk tells
/// it. 3 where nothing is compressed, or no level gives its bytes.
std::uint32_t level_of(const CardReader& card) {
  for (std::size_t i = 0; i < card.frames().size(); ++i) {
    const FrameHeader& frame = card.frames()[i];
    if (!is_chunk(frame) || frame.compressor == 0) continue;
    auto payload = card.read_section(i);
    if (!payload) return kUsualLevel;
    for (std::uint32_t tried = 0; tried <= kMaxLevel; ++tried) {
      const std::uint32_t level = tried == 0 ? kUsualLevel : tried;
      auto section = encode_section(bare(frame), *payload, static_cast<int>(level));
      if (section && section->frame.stored_digest == frame.stored_digest) return level;
    }
    return kUsualLevel;
  }
  return kUsualLevel;
}

class Restorer {
 public:
  Restorer(const StoredForm& form, const ReadCarried& carried, const CacheSource& source, CardWriter& writer,
           const CardOptions& options)
      : form_(form), carried_(carried), source_(source), writer_(writer), options_(options) {}

  Status run();

 private:
  Status add_carried(const FrameHeader& frame);
  Status add_told(const FrameHeader& frame);
  Status add_chunks(std::span<const FrameHeader> frames);
  Result<EncodedSection> encode(const FrameHeader& frame, std::size_t slot, std::uint64_t opaque_offset);
  Status append(const EncodedSection& section);

  const StoredForm& form_;
  const ReadCarried& carried_;
  const CacheSource& source_;
  CardWriter& writer_;
  const CardOptions& options_;
  std::uint64_t carried_done_ = 0;
  std::vector<std::uint64_t> opaque_done_;
  std::vector<std::vector<std::byte>> rows_;
};

Status Restorer::append(const EncodedSection& section) {
  auto written = writer_.append(section);
  if (written) return {};
  if (written.error().code == ErrorCode::kIo || written.error().code == ErrorCode::kInterrupted)
    return written.error();
  return form_error(section.frame, written.error().message());
}

Status Restorer::add_carried(const FrameHeader& frame) {
  if (frame.stored_size > options_.limits.section_bytes || frame.digest_size != frame.stored_size ||
      frame.stored_size > form_.carried_size - carried_done_) {
    return form_error(frame, "found a stored_size of " + std::to_string(frame.stored_size));
  }
  EncodedSection section;
  section.frame = frame;
  section.buffer.resize(frame.stored_size);
  section.stored = section.buffer;
  if (Status s = carried_(carried_done_, section.buffer); !s) return s;
  carried_done_ += frame.stored_size;
  if (digest64(section.stored) != frame.stored_digest) {
    return Error{ErrorCode::kChecksumMismatch, kNoOffset, std::string("cachecard.sections"),
                 std::string(name_of(type_of(frame))) + " section: its digest is another"};
  }
  return append(section);
}

Status Restorer::add_told(const FrameHeader& frame) {
  const auto payload = told_payload(frame, source_);
  auto section = encode_section(bare(frame), payload);
  if (!section) return section.error();
  return append(*section);
}

Result<EncodedSection> Restorer::encode(const FrameHeader& frame, std::size_t slot,
                                        std::uint64_t opaque_offset) {
  const CardHeader& header = source_.header();
  const auto stream = header.stream_index(frame.layer, static_cast<StreamKind>(frame.stream));
  if (!stream) return form_error(frame, "found a stream that is not there");
  const StreamRecord& record = header.streams[*stream];
  const bool opaque = static_cast<StreamKind>(record.stream) == StreamKind::kOpaque;
  const std::uint64_t size =
      opaque ? frame.decoded_size : frame.token_count * row_bytes(record, static_cast<DType>(record.dtype));
  const bool inside =
      opaque ? frame.decoded_size <= record.opaque_size - std::min(record.opaque_size, opaque_offset)
             : frame.first_token >= record.first_token && frame.token_count <= record.token_count &&
                   frame.first_token - record.first_token <= record.token_count - frame.token_count;
  if (!inside || size > options_.limits.section_bytes)
    return form_error(frame, "found a span that is not there");
  std::vector<std::byte>& rows = rows_[slot];
  rows.resize(size);
  Status read = opaque ? source_.read_opaque(*stream, opaque_offset, rows)
                       : source_.read_rows(*stream, frame.first_token, frame.token_count, rows);
  if (!read) return read.error();
  auto section = encode_chunk(header, *stream, bare(frame), rows, static_cast<int>(form_.zstd_level));
  // Floats may stand under codec ggml, where they are as under raw; the writer checks the frame as a reader does.
  if (section && frame.codec == static_cast<std::uint8_t>(Codec::kGgml)) section->frame.codec = frame.codec;
  return section;
}

Status Restorer::add_chunks(std::span<const FrameHeader> frames) {
  struct Batch {
    Restorer& self;
    std::span<const FrameHeader> frames;
    std::vector<std::uint64_t> opaque_offsets;
    std::vector<std::optional<Result<EncodedSection>>> sections;
  } batch{*this, frames, {}, {}};
  for (const FrameHeader& frame : frames) {
    const auto stream = source_.header().stream_index(frame.layer, static_cast<StreamKind>(frame.stream));
    if (!stream) return form_error(frame, "found a stream that is not there");
    batch.opaque_offsets.push_back(opaque_done_[*stream]);
    if (static_cast<StreamKind>(frame.stream) != StreamKind::kOpaque) continue;
    if (frame.decoded_size > options_.limits.section_bytes)
      return form_error(frame, "found a span that is not there");
    opaque_done_[*stream] += frame.decoded_size;
  }
  batch.sections.resize(frames.size());
  options_.parallel(
      frames.size(),
      [](void* context, std::size_t i) {
        auto& b = *static_cast<Batch*>(context);
        b.sections[i] = b.self.encode(b.frames[i], i, b.opaque_offsets[i]);
      },
      &batch);
  for (auto& section : batch.sections) {
    if (!*section) return section->error();
    if (Status s = append(**section); !s) return s;
  }
  return {};
}

Status Restorer::run() {
  const std::size_t width = std::max<std::size_t>(1, options_.parallel.width);
  rows_.resize(width);
  opaque_done_.assign(source_.header().streams.size(), 0);
  std::uint64_t done = 0;
  for (std::size_t i = 0; i < form_.frames.size();) {
    const FrameHeader& frame = form_.frames[i];
    std::size_t count = 1;
    if (is_chunk(frame)) {
      while (count < width && i + count < form_.frames.size() && is_chunk(form_.frames[i + count])) ++count;
      if (Status s = add_chunks(std::span(form_.frames).subspan(i, count)); !s) return s;
    } else if (Status s = is_carried(frame) ? add_carried(frame) : add_told(frame); !s) {
      return s;
    }
    i += count;
    done += count;
    if (options_.progress && !options_.progress(done, form_.frames.size())) {
      return Error{ErrorCode::kInterrupted, kNoOffset, {}, "stopped while writing sections"};
    }
  }
  return {};
}

}  // namespace

bool is_carried(const FrameHeader& frame) {
  switch (type_of(frame)) {
    case SectionType::kChunk:
    case SectionType::kTokenIds:
    case SectionType::kPositions:
    case SectionType::kSummary:
    case SectionType::kDirectory:
      return false;
    case SectionType::kText:
      return frame.segment != 0;  // kv_cache.text is that of the first segment
    default:
      return true;
  }
}

std::optional<StoredForm> stored_form_of(const CardReader& card, const Summary& summary) {
  const auto header = encode_header(card.header());  // of another writer: with wider records, perhaps
  if (!header || digest64(*header) != card.prologue().header_digest) return std::nullopt;
  StoredForm form;
  form.root = card.trailer().root;
  form.required_features = card.prologue().required_features;
  form.optional_features = card.prologue().optional_features;
  form.predicted_error = summary.predicted_error;
  form.zstd_level = level_of(card);
  for (const FrameHeader& frame : card.frames()) {
    if (type_of(frame) == SectionType::kSummary || type_of(frame) == SectionType::kDirectory) continue;
    const auto codec = static_cast<Codec>(frame.codec);
    if (is_chunk(frame) && codec != Codec::kRaw && codec != Codec::kGgml) return std::nullopt;
    if (is_carried(frame)) form.carried_size += frame.stored_size;
    form.frames.push_back(frame);
  }
  return form;
}

bool fits(const StoredForm& form, const CacheSource& source) {
  if (!same_rope(form, source.rope_table())) return false;
  const auto& segments = source.header().segments;
  std::set<std::pair<std::uint16_t, std::uint32_t>> seen;
  for (const FrameHeader& frame : form.frames) {
    if (is_chunk(frame) || is_carried(frame)) continue;
    // One of each for a segment: else a small file could ask for the same work again and again.
    if (frame.segment >= segments.size() || !seen.emplace(frame.section_type, frame.segment).second)
      return false;
    const SegmentRecord& segment = segments[frame.segment];
    if (frame.first_token != segment.first_token || frame.token_count != segment.token_count) return false;
    const auto payload = told_payload(frame, source);
    auto section = encode_section(bare(frame), payload);
    if (!section || section->frame.stored_digest != frame.stored_digest) return false;
  }
  return true;
}

Result<WriteReport> restore_card(const StoredForm& form, const ReadCarried& carried,
                                 const CacheSource& source, ByteSink& sink, const CardOptions& options) {
  auto writer = CardWriter::create(sink, source.header(), form.required_features, form.optional_features,
                                   options.limits);
  if (!writer) return writer.error();
  if (Status s = Restorer(form, carried, source, *writer, options).run(); !s) return s.error();
  return writer->finish(form.predicted_error);
}

}  // namespace cachecard::gguf
