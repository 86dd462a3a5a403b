#include <algorithm>

#include "base/checked.hpp"
#include "cachecard/reader.hpp"
#include "format/frame_walk.hpp"
#include "format/framing.hpp"
#include "format/record_check.hpp"
#include "reader/payload.hpp"
#include "reader/section_content.hpp"

namespace cachecard {
namespace {

bool is_planes(const FrameHeader& frame) { return frame.codec == static_cast<std::uint8_t>(Codec::kPlanes); }
bool is_entropy(const FrameHeader& frame) { return frame.codec == static_cast<std::uint8_t>(Codec::kEntropy); }

/// One walk over a card's bytes. Memory: one payload, its decoded form, and the small sections.
class Verifier {
 public:
  Verifier(ByteStream& stream, const VerifyOptions& options, SequentialVisitor* visitor)
      : stream_(stream), options_(options), visitor_(visitor) {}

  Result<VerifyReport> run();

 private:
  Status read_start();
  Status take_frame();
  Status take_payload(const FrameHeader& frame);
  Status check_directory(const FrameHeader& frame, std::uint64_t headers_digest) const;
  Status check_contents(const FrameHeader& frame);
  Status take_trailer();
  Status fill(std::span<std::byte> out);

  ByteStream& stream_;
  const VerifyOptions& options_;
  SequentialVisitor* visitor_;
  std::uint64_t position_ = 0;
  Prologue prologue_;
  CardHeader header_;
  std::optional<FrameWalk> walk_;
  std::optional<SectionContent> content_;
  std::vector<std::byte> stored_;
  std::vector<std::byte> decoded_;
  std::vector<std::byte> scratch_;
  VerifyReport report_;
};

Status Verifier::fill(std::span<std::byte> out) {
  std::size_t done = 0;
  while (done < out.size()) {
    auto got = stream_.read(out.subspan(done));
    if (!got) return got.error();
    if (*got == 0) {
      return Error{ErrorCode::kTruncated, position_ + done, {},
                   "the input ends, at least " + std::to_string(out.size() - done) + " more bytes belong here"};
    }
    done += *got;
  }
  position_ += out.size();
  return {};
}

Status Verifier::read_start() {
  PrologueBytes prologue_bytes;
  if (Status s = fill(prologue_bytes); !s) return s;
  auto prologue = open_prologue(prologue_bytes, options_.limits);
  if (!prologue) return prologue.error();
  prologue_ = *prologue;
  std::vector<std::byte> bytes(align64(prologue_.header_size));
  if (Status s = fill(bytes); !s) return s;
  const auto header_bytes = std::span<const std::byte>(bytes).first(prologue_.header_size);
  if (Status s = check_header_digest(prologue_, header_bytes); !s) return s;
  if (Status s = check_padding(std::span<const std::byte>(bytes).subspan(prologue_.header_size),
                               kPrologueSize + prologue_.header_size);
      !s) {
    return s;
  }
  auto header = parse_header(header_bytes, options_.limits);
  if (!header) return header.error();
  header_ = std::move(*header);
  walk_.emplace(prologue_, prologue_bytes, bytes, header_, options_.limits);
  content_.emplace(header_, options_.limits);
  if (visitor_ != nullptr) return visitor_->on_header(prologue_, header_);
  return {};
}

Status Verifier::take_frame() {
  FrameBytes bytes;
  if (Status s = fill(bytes); !s) return s;
  auto frame = open_frame(bytes, position_ - kFrameHeaderSize);
  if (!frame) return frame.error();
  const std::uint64_t headers_before = walk_->headers_digest();
  const std::uint64_t count_before = walk_->frame_count();
  const bool is_chunk = frame->section_type == static_cast<std::uint16_t>(SectionType::kChunk);
  if (Status s = walk_->accept(*frame, bytes); !s) return s;
  if (is_chunk) {
    if (Status s = content_->check_chunk(*frame); !s) return s;
    content_->count_widths(*frame, *walk_);
  }
  const bool is_directory = walk_->at_end();
  if (is_directory && frame->stored_size != count_before * kFrameHeaderSize) {
    return field_error(ErrorCode::kBadSize, frame->offset, &FrameHeader::stored_size,
                       found_allowed(frame->stored_size, "one frame header for each section before"));
  }
  if (Status s = take_payload(*frame); !s) return s;
  if (is_directory) return check_directory(*frame, headers_before);
  return check_contents(*frame);
}

Status Verifier::take_payload(const FrameHeader& frame) {
  stored_.resize(frame.stored_size);
  if (Status s = fill(stored_); !s) return s;
  if (Status s = check_digest(frame, stored_); !s) return s;
  std::array<std::byte, 64> padding;
  const auto pad = std::span(padding).first(align64(frame.stored_size) - frame.stored_size);
  if (Status s = fill(pad); !s) return s;
  return check_padding(pad, position_ - pad.size());
}

Status Verifier::check_directory(const FrameHeader& frame, std::uint64_t headers_digest) const {
  if (frame.stored_digest == headers_digest) return {};
  return Error{ErrorCode::kCorrupt, frame.offset + kFrameHeaderSize, "directory",
               "it is not the frame headers before it"};
}

/// Small sections always; chunks only for --decode.
Status Verifier::check_contents(const FrameHeader& frame) {
  const bool is_chunk = frame.section_type == static_cast<std::uint16_t>(SectionType::kChunk);
  const bool known = section_rule(frame.section_type) != nullptr;
  std::span<const std::byte> payload = stored_;
  if (known && frame.compressor != 0 && (!is_chunk || options_.decode)) {
    decoded_.resize(frame.decoded_size);
    scratch_.resize(frame.decoded_size);
    if (Status s = inflate_payload(frame, stored_, decoded_, scratch_); !s) return s;
    payload = decoded_;
  }
  if (is_chunk && is_planes(frame)) {
    if (Status s = content_->check_planes(frame, stored_); !s) return s;
  }
  if (is_chunk && is_entropy(frame)) {
    if (Status s = content_->check_entropy(frame, stored_, options_.decode); !s) return s;
  }
  if (known && !is_chunk) {
    const bool is_summary = frame.section_type == static_cast<std::uint16_t>(SectionType::kSummary);
    if (Status s = content_->check(frame, payload, is_summary ? walk_->summary() : Summary{}); !s) return s;
  }
  if (visitor_ != nullptr) return visitor_->on_section(frame, stored_);
  return {};
}

Status Verifier::take_trailer() {
  TrailerBytes bytes;
  const std::uint64_t at = position_;
  if (Status s = fill(bytes); !s) return s;
  auto trailer = open_trailer(bytes, at);
  if (!trailer) return trailer.error();
  const auto differs = [&](auto member, ErrorCode code, std::uint64_t expected) -> Status {
    if ((*trailer).*member == expected) return {};
    return field_error(code, at, member, found_allowed((*trailer).*member, std::to_string(expected)));
  };
  if (Status s = differs(&Trailer::summary_offset, ErrorCode::kBadOffset, walk_->summary_offset()); !s) return s;
  if (Status s = differs(&Trailer::directory_offset, ErrorCode::kBadOffset, walk_->directory_offset()); !s) {
    return s;
  }
  if (Status s = differs(&Trailer::frame_count, ErrorCode::kCorrupt, walk_->frame_count()); !s) return s;
  if (Status s = differs(&Trailer::file_size, ErrorCode::kBadSize, position_); !s) return s;
  if (walk_->root(std::span(bytes).first(32)) != trailer->root) {
    return field_error(ErrorCode::kChecksumMismatch, at, &Trailer::root,
                       "prologue, header and frames do not match");
  }
  std::array<std::byte, 1> more;
  auto got = stream_.read(more);
  if (!got) return got.error();
  if (*got != 0) return Error{ErrorCode::kCorrupt, position_, "trailer", "bytes after the trailer"};
  report_ = {*trailer, walk_->skipped_sections()};
  return {};
}

Result<VerifyReport> Verifier::run() {
  if (Status s = read_start(); !s) return s.error();
  while (!walk_->at_end()) {
    if (Status s = take_frame(); !s) return s.error();
  }
  if (Status s = walk_->finish(); !s) return s.error();
  if (Status s = content_->finish(walk_->directory_offset()); !s) return s.error();
  if (Status s = take_trailer(); !s) return s.error();
  return report_;
}

}  // namespace

Result<VerifyReport> verify(ByteStream& stream, const VerifyOptions& options, SequentialVisitor* visitor) {
  return Verifier(stream, options, visitor).run();
}

}  // namespace cachecard
