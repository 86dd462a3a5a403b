#include "format/framing.hpp"

#include "cachecard/digest.hpp"
#include "format/record_check.hpp"

namespace cachecard {
namespace {

/// XXH3-64 of the bytes before `check`, cut to 32 bits.
std::uint32_t check_of(std::span<const std::byte> before) {
  return static_cast<std::uint32_t>(digest64(before));
}

template <class Record>
constexpr std::size_t check_offset() {
  std::size_t at = 0;
  for_each_field<Record>([&](const auto& f, std::size_t offset) {
    if (f.name == "check") at = offset;
  });
  return at;
}

template <class Record>
auto seal_record(Record record) {
  std::array<std::byte, encoded_size<Record>()> bytes;
  store(record, bytes);
  record.check = check_of(std::span(bytes).first(check_offset<Record>()));
  store(record, bytes);
  return bytes;
}

template <class Record>
Status open_check(const Record& record, std::span<const std::byte> bytes, std::uint64_t offset) {
  const std::uint32_t expected = check_of(bytes.first(check_offset<Record>()));
  if (record.check == expected) return {};
  return field_error(ErrorCode::kChecksumMismatch, offset, &Record::check,
                     found_allowed(record.check, std::to_string(expected)));
}

Status check_version(const Prologue& p) {
  if (p.format_major == kFormatMajor && p.format_minor == kFormatMinor) return {};
  const std::string found =
      std::to_string(p.format_major) + "." + std::to_string(p.format_minor);
  return field_error(ErrorCode::kUnsupportedVersion, 0, &Prologue::format_major,
                     "found format " + found + ", this reader reads " +
                         std::to_string(kFormatMajor) + "." + std::to_string(kFormatMinor));
}

Status check_features(const Prologue& p) {
  const std::uint64_t unknown = p.required_features & ~kRequiredFeaturesKnown;
  if (unknown == 0) return {};
  return field_error(ErrorCode::kUnsupportedFeature, 0, &Prologue::required_features,
                     "required feature bit " + std::to_string(std::countr_zero(unknown)) +
                         " is not known");
}

}  // namespace

PrologueBytes seal(const Prologue& prologue) { return seal_record(prologue); }
FrameBytes seal(const FrameHeader& frame) { return seal_record(frame); }
TrailerBytes seal(const Trailer& trailer) { return seal_record(trailer); }

Result<Prologue> open_prologue(std::span<const std::byte> bytes, const Limits& limits) {
  const Prologue p = load<Prologue>(bytes);
  if (p.magic != kMagic) {
    return field_error(ErrorCode::kBadMagic, 0, &Prologue::magic, "these are not a card's first bytes");
  }
  if (Status s = open_check(p, bytes, 0); !s) return s.error();
  if (Status s = check_version(p); !s) return s.error();
  if (Status s = check_reserved(p, 0); !s) return s.error();
  if (Status s = check_features(p); !s) return s.error();
  if (p.header_size > limits.header_bytes) {
    return field_error(ErrorCode::kLimitExceeded, 0, &Prologue::header_size,
                       found_allowed(p.header_size, std::to_string(limits.header_bytes)));
  }
  if (p.header_size < encoded_size<HeaderRecord>()) {
    return field_error(ErrorCode::kBadSize, 0, &Prologue::header_size,
                       found_allowed(p.header_size, "at least 128"));
  }
  return p;
}

Result<FrameHeader> open_frame(std::span<const std::byte> bytes, std::uint64_t offset) {
  const FrameHeader frame = load<FrameHeader>(bytes);
  if (Status s = open_check(frame, bytes, offset); !s) return s.error();
  if (Status s = check_reserved(frame, offset); !s) return s.error();
  if (frame.offset != offset) {
    return field_error(ErrorCode::kBadOffset, offset, &FrameHeader::offset,
                       found_allowed(frame.offset, std::to_string(offset)));
  }
  return frame;
}

Result<Trailer> open_trailer(std::span<const std::byte> bytes, std::uint64_t offset) {
  const Trailer trailer = load<Trailer>(bytes);
  if (trailer.end_magic != kEndMagic) {
    return field_error(ErrorCode::kTruncated, offset, &Trailer::end_magic,
                       "the input does not end with a card's last bytes");
  }
  if (Status s = open_check(trailer, bytes, offset); !s) return s.error();
  if (Status s = check_reserved(trailer, offset); !s) return s.error();
  return trailer;
}

Status check_header_digest(const Prologue& prologue, std::span<const std::byte> header) {
  if (digest64(header) == prologue.header_digest) return {};
  return field_error(ErrorCode::kChecksumMismatch, 0, &Prologue::header_digest,
                     "the header's bytes do not match");
}

Status check_padding(std::span<const std::byte> padding, std::uint64_t offset) {
  for (std::size_t i = 0; i < padding.size(); ++i) {
    if (padding[i] != std::byte{0}) {
      return Error{ErrorCode::kReservedNotZero, offset + i, "padding", "found a bit set, allowed zero"};
    }
  }
  return {};
}

}  // namespace cachecard
