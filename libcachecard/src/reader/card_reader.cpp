#include <algorithm>
#include <map>

#include "base/bytes.hpp"
#include "base/checked.hpp"
#include "cachecard/reader.hpp"
#include "format/frame_walk.hpp"
#include "format/framing.hpp"
#include "format/planes_layout.hpp"
#include "format/record_check.hpp"
#include "reader/chunk_context.hpp"
#include "reader/payload.hpp"

namespace cachecard {
namespace {

struct Opening {
  PrologueBytes prologue_bytes;
  Prologue prologue;
  std::vector<std::byte> header_bytes;  ///< padded
  CardHeader header;
  TrailerBytes trailer_bytes;
  Trailer trailer;
};

Error too_short(std::uint64_t size) {
  return {ErrorCode::kTruncated, size, {},
          "found " + std::to_string(size) + " bytes, a card has more"};
}

Status read_trailer(const ByteSource& source, Opening& opening) {
  const std::uint64_t at = source.size() - kTrailerSize;
  if (Status s = source.read_at(at, opening.trailer_bytes); !s) return s;
  auto trailer = open_trailer(opening.trailer_bytes, at);
  if (!trailer) return trailer.error();
  opening.trailer = *trailer;
  if (trailer->file_size != source.size()) {
    return field_error(ErrorCode::kBadSize, at, &Trailer::file_size,
                       found_allowed(trailer->file_size, std::to_string(source.size())));
  }
  return {};
}

/// Prologue, header and trailer: what every reader checks first.
Result<Opening> open_ends(const ByteSource& source, const Limits& limits) {
  Opening opening;
  if (source.size() < kPrologueSize) return too_short(source.size());
  if (Status s = source.read_at(0, opening.prologue_bytes); !s) return s.error();
  auto prologue = open_prologue(opening.prologue_bytes, limits);
  if (!prologue) return prologue.error();
  opening.prologue = *prologue;
  const std::uint64_t padded = align64(prologue->header_size);
  if (source.size() < kPrologueSize + padded + kTrailerSize) return too_short(source.size());
  opening.header_bytes.resize(padded);
  if (Status s = source.read_at(kPrologueSize, opening.header_bytes); !s) return s.error();
  const auto header_bytes = std::span<const std::byte>(opening.header_bytes).first(prologue->header_size);
  if (Status s = check_header_digest(*prologue, header_bytes); !s) return s.error();
  if (Status s = check_padding(std::span<const std::byte>(opening.header_bytes).subspan(prologue->header_size),
                               kPrologueSize + prologue->header_size);
      !s) {
    return s.error();
  }
  auto header = parse_header(header_bytes, limits);
  if (!header) return header.error();
  opening.header = std::move(*header);
  if (Status s = read_trailer(source, opening); !s) return s.error();
  return opening;
}

/// Reads the frame header at offset; it must lie before the trailer, payload and padding included.
Result<FrameHeader> read_frame(const ByteSource& source, std::uint64_t offset, FrameBytes& bytes) {
  const std::uint64_t end = source.size() - kTrailerSize;
  if (offset % 64 != 0 || !span_within(offset, kFrameHeaderSize, end)) {
    return Error{ErrorCode::kBadOffset, offset, "frame_header", "a frame outside the file"};
  }
  if (Status s = source.read_at(offset, bytes); !s) return s.error();
  auto frame = open_frame(bytes, offset);
  if (!frame) return frame.error();
  if (!span_within(offset + kFrameHeaderSize, frame->stored_size, end)) {
    return field_error(ErrorCode::kBadSize, offset, &FrameHeader::stored_size, "the payload leaves the file");
  }
  if (frame->digest_size != frame->stored_size) {  // summary and directory: FrameWalk has not seen them yet
    return field_error(ErrorCode::kBadSize, offset, &FrameHeader::digest_size,
                       found_allowed(frame->digest_size, std::to_string(frame->stored_size)));
  }
  return *frame;
}

Result<std::vector<std::byte>> read_payload(const ByteSource& source, const FrameHeader& frame) {
  std::vector<std::byte> payload(frame.stored_size);
  if (Status s = source.read_at(frame.offset + kFrameHeaderSize, payload); !s) return s.error();
  if (Status s = check_digest(frame, payload); !s) return s.error();
  return payload;
}

/// The directory's payload: every frame header before it, verbatim.
Result<std::vector<std::byte>> read_directory(const ByteSource& source, const Trailer& trailer,
                                              const Limits& limits, FrameBytes& directory_bytes) {
  auto frame = read_frame(source, trailer.directory_offset, directory_bytes);
  if (!frame) return frame.error();
  const std::uint64_t trailer_at = source.size() - kTrailerSize;
  if (frame->section_type != static_cast<std::uint16_t>(SectionType::kDirectory)) {
    return field_error(ErrorCode::kBadOffset, trailer_at, &Trailer::directory_offset,
                       "there is no directory");
  }
  if (trailer.frame_count == 0 || trailer.frame_count > limits.frame_count) {
    return field_error(ErrorCode::kLimitExceeded, trailer_at, &Trailer::frame_count,
                       found_allowed(trailer.frame_count, "1 to " + std::to_string(limits.frame_count)));
  }
  if (frame->stored_size != (trailer.frame_count - 1) * kFrameHeaderSize) {
    return field_error(ErrorCode::kBadSize, frame->offset, &FrameHeader::stored_size,
                       found_allowed(frame->stored_size, "one frame header for each section before"));
  }
  if (frame->offset + kFrameHeaderSize + align64(frame->stored_size) != trailer_at) {
    return field_error(ErrorCode::kBadOffset, trailer_at, &Trailer::directory_offset,
                       "the directory does not end where the trailer begins");
  }
  return read_payload(source, *frame);
}

}  // namespace

Result<CardFacts> read_facts(const ByteSource& source, const Limits& limits) {
  auto opening = open_ends(source, limits);
  if (!opening) return opening.error();
  FrameBytes bytes;
  auto frame = read_frame(source, opening->trailer.summary_offset, bytes);
  if (!frame) return frame.error();
  if (frame->section_type != static_cast<std::uint16_t>(SectionType::kSummary)) {
    return field_error(ErrorCode::kBadOffset, source.size() - kTrailerSize, &Trailer::summary_offset,
                       "there is no summary");
  }
  if (frame->stored_size > limits.summary_bytes || frame->compressor != 0) {
    return field_error(ErrorCode::kLimitExceeded, frame->offset, &FrameHeader::stored_size,
                       found_allowed(frame->stored_size, std::to_string(limits.summary_bytes)));
  }
  auto payload = read_payload(source, *frame);
  if (!payload) return payload.error();
  auto summary = parse_summary(*payload);
  if (!summary) return at_payload(summary.error(), *frame);
  return CardFacts{opening->prologue, std::move(opening->header), opening->trailer, std::move(*summary)};
}

CardReader::CardReader() : contexts_(std::make_shared<ContextCache>()) {}

Result<CardReader> CardReader::open(const ByteSource& source, const Limits& limits) {
  auto opening = open_ends(source, limits);
  if (!opening) return opening.error();
  FrameBytes directory_bytes;
  auto directory = read_directory(source, opening->trailer, limits, directory_bytes);
  if (!directory) return directory.error();

  CardReader reader;
  reader.source_ = &source;
  reader.limits_ = limits;
  reader.prologue_ = opening->prologue;
  reader.header_ = std::move(opening->header);
  reader.trailer_ = opening->trailer;
  FrameWalk walk(reader.prologue_, opening->prologue_bytes, opening->header_bytes, reader.header_, limits);
  std::vector<std::byte> all = std::move(*directory);
  all.insert(all.end(), directory_bytes.begin(), directory_bytes.end());
  for (std::size_t at = 0; at < all.size(); at += kFrameHeaderSize) {
    const auto bytes = std::span<const std::byte>(all).subspan(at, kFrameHeaderSize);
    auto frame = open_frame(bytes, walk.next_offset());
    if (!frame) return frame.error();
    if (Status s = walk.accept(*frame, bytes); !s) return s.error();
    reader.frames_.push_back(*frame);
  }
  if (Status s = walk.finish(); !s) return s.error();
  const std::uint64_t trailer_at = source.size() - kTrailerSize;
  if (walk.next_offset() != trailer_at || walk.summary_offset() != opening->trailer.summary_offset) {
    return field_error(ErrorCode::kBadOffset, trailer_at, &Trailer::summary_offset,
                       found_allowed(opening->trailer.summary_offset, std::to_string(walk.summary_offset())));
  }
  if (walk.root(std::span(opening->trailer_bytes).first(32)) != opening->trailer.root) {
    return field_error(ErrorCode::kChecksumMismatch, trailer_at, &Trailer::root,
                       "prologue, header and frames do not match");
  }
  reader.index_chunks();
  if (Status s = reader.check_parameters(); !s) return s.error();
  return reader;
}

void CardReader::index_chunks() {
  std::vector<std::vector<std::uint32_t>> by_stream(header_.streams.size());
  for (std::uint32_t i = 0; i < frames_.size(); ++i) {
    if (frames_[i].section_type != static_cast<std::uint16_t>(SectionType::kChunk)) continue;
    by_stream[*header_.stream_index(frames_[i].layer, static_cast<StreamKind>(frames_[i].stream))]
        .push_back(i);
  }
  chunk_first_.push_back(0);
  for (const auto& frames : by_stream) {
    chunk_frames_.insert(chunk_frames_.end(), frames.begin(), frames.end());
    chunk_first_.push_back(static_cast<std::uint32_t>(chunk_frames_.size()));
  }
}

Status CardReader::check_parameters() const {
  std::map<std::uint64_t, ParameterHeader> by_digest;
  for (std::size_t i = 0; i < frames_.size(); ++i) {
    if (frames_[i].section_type != static_cast<std::uint16_t>(SectionType::kParameters)) continue;
    auto payload = read_section(i);
    if (!payload) return payload.error();
    auto parsed = parse_parameters(*payload);
    if (!parsed) return at_payload(parsed.error(), frames_[i]);
    by_digest[frames_[i].stored_digest] = parsed->record;
  }
  for (const FrameHeader& frame : frames_) {
    // Sections of later minors may hold anything in these fields.
    if (frame.section_type != static_cast<std::uint16_t>(SectionType::kChunk)) continue;
    const auto named = by_digest.find(frame.parameter_digest);
    if (named == by_digest.end()) continue;
    const auto stream = *header_.stream_index(frame.layer, static_cast<StreamKind>(frame.stream));
    if (Status s = check_named_parameters(frame, header_.streams[stream], named->second); !s) return s;
  }
  return {};
}

std::optional<std::size_t> CardReader::find(SectionType type, std::uint32_t segment) const {
  for (std::size_t i = 0; i < frames_.size(); ++i) {
    if (frames_[i].section_type == static_cast<std::uint16_t>(type) && frames_[i].segment == segment) {
      return i;
    }
  }
  return std::nullopt;
}

std::span<const std::uint32_t> CardReader::chunks(std::size_t stream_index) const {
  return std::span(chunk_frames_)
      .subspan(chunk_first_[stream_index], chunk_first_[stream_index + 1] - chunk_first_[stream_index]);
}

Status CardReader::read_stored(std::size_t frame, std::span<std::byte> out) const {
  const FrameHeader& f = frames_[frame];
  if (out.size() != f.stored_size) {
    return Error{ErrorCode::kBufferTooSmall, kNoOffset, {}, found_allowed(out.size(), std::to_string(f.stored_size))};
  }
  if (Status s = source_->read_at(f.offset + kFrameHeaderSize, out); !s) return s;
  if (Status s = check_digest(f, out); !s) return s;
  const bool planes = f.section_type == static_cast<std::uint16_t>(SectionType::kChunk) &&
                      f.codec == static_cast<std::uint8_t>(Codec::kPlanes);
  return planes ? check_planes_of_head(f, out) : Status();
}

Status CardReader::check_other_sections(std::uint64_t token_count) const {
  std::vector<std::byte> stored;
  for (std::size_t i = 0; i < frames_.size(); ++i) {
    const FrameHeader& frame = frames_[i];
    const auto type = static_cast<SectionType>(frame.section_type);
    const bool decoded = type == SectionType::kChunk && (frame.token_count == 0 || frame.first_token < token_count);
    if (decoded || type == SectionType::kDirectory) continue;  // the directory was checked by open()
    stored.resize(frame.stored_size);
    if (Status s = read_stored(i, stored); !s) return s;
  }
  return {};
}

Result<std::vector<std::byte>> CardReader::read_section(std::size_t frame) const {
  const FrameHeader& f = frames_[frame];
  std::vector<std::byte> stored(f.stored_size);
  if (Status s = read_stored(frame, stored); !s) return s.error();
  if (f.compressor == 0) return stored;
  std::vector<std::byte> out(f.decoded_size);
  std::vector<std::byte> scratch(f.decoded_size);
  if (Status s = inflate_payload(f, stored, out, scratch); !s) return s.error();
  return out;
}

}  // namespace cachecard
