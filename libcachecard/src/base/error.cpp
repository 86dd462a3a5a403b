#include "cachecard/error.hpp"

#include <array>

namespace cachecard {
namespace {

constexpr std::array kErrors{
    ErrorInfo{ErrorCode::kOk, "ok", 0, "no error"},
    ErrorInfo{ErrorCode::kBadMagic, "bad_magic", 4, "not a card"},
    ErrorInfo{ErrorCode::kUnsupportedVersion, "unsupported_version", 4,
              "a format version that this reader does not read"},
    ErrorInfo{ErrorCode::kUnsupportedFeature, "unsupported_feature", 4,
              "a required feature or section that this reader does not know"},
    ErrorInfo{ErrorCode::kUnsupportedCodec, "unsupported_codec", 8,
              "a codec, type or compressor that this build does not have"},
    ErrorInfo{ErrorCode::kForeignInput, "foreign_input", 4,
              "a foreign file whose layout is not understood"},
    ErrorInfo{ErrorCode::kTruncated, "truncated", 5, "the input ends too early"},
    ErrorInfo{ErrorCode::kCorrupt, "corrupt", 5, "parts of the input contradict each other"},
    ErrorInfo{ErrorCode::kChecksumMismatch, "checksum_mismatch", 5, "a digest does not match"},
    ErrorInfo{ErrorCode::kReservedNotZero, "reserved_not_zero", 5,
              "a reserved field or padding is not zero"},
    ErrorInfo{ErrorCode::kBadOffset, "bad_offset", 5, "an offset points to the wrong place"},
    ErrorInfo{ErrorCode::kBadSize, "bad_size", 5, "a size does not fit what it describes"},
    ErrorInfo{ErrorCode::kBadEnum, "bad_enum", 5, "a number that names nothing"},
    ErrorInfo{ErrorCode::kNonFinite, "non_finite", 5, "a NaN or an infinity where none is allowed"},
    ErrorInfo{ErrorCode::kLimitExceeded, "limit_exceeded", 7, "larger than a stated limit"},
    ErrorInfo{ErrorCode::kOutOfMemory, "out_of_memory", 7, "memory could not be had"},
    ErrorInfo{ErrorCode::kInvalidArgument, "invalid_argument", 2,
              "the caller asked for what cannot be"},
    ErrorInfo{ErrorCode::kBufferTooSmall, "buffer_too_small", 2, "the caller's buffer is too small"},
    ErrorInfo{ErrorCode::kModelMismatch, "model_mismatch", 6, "made by another model"},
    ErrorInfo{ErrorCode::kGeometryMismatch, "geometry_mismatch", 6,
              "the target's cache has another shape, type or rotation"},
    ErrorInfo{ErrorCode::kPositionMismatch, "position_mismatch", 6, "positions do not fit"},
    ErrorInfo{ErrorCode::kIdentityUnknown, "identity_unknown", 6,
              "what must match is not known on one side"},
    ErrorInfo{ErrorCode::kTokensUnknown, "tokens_unknown", 6, "the card holds no token ids"},
    ErrorInfo{ErrorCode::kNotRestorable, "not_restorable", 6, "such a prefix cannot be restored"},
    ErrorInfo{ErrorCode::kPartialCard, "partial_card", 6,
              "the card is not a prefix, or lacks layers"},
    ErrorInfo{ErrorCode::kIo, "io", 3, "reading or writing failed"},
    ErrorInfo{ErrorCode::kTargetUnavailable, "target_unavailable", 3, "the server does not answer"},
    ErrorInfo{ErrorCode::kTargetBusy, "target_busy", 3, "the slot is at work"},
    ErrorInfo{ErrorCode::kTargetTooSmall, "target_too_small", 3, "the slot holds fewer tokens"},
    ErrorInfo{ErrorCode::kInterrupted, "interrupted", 130, "stopped by a signal"},
    ErrorInfo{ErrorCode::kInternal, "internal", 1, "a defect of this program"},
};

}  // namespace

const ErrorInfo* error_table(std::size_t* count) noexcept {
  *count = kErrors.size();
  return kErrors.data();
}

const ErrorInfo& error_info(ErrorCode code) noexcept {
  for (const ErrorInfo& info : kErrors) {
    if (info.code == code) return info;
  }
  return kErrors.back();
}

std::string Error::message() const {
  std::string line(error_info(code).name);
  if (offset != kNoOffset) line += " at offset " + std::to_string(offset);
  if (!field.empty()) line += (offset != kNoOffset ? ", " : " in ") + field;
  if (!detail.empty()) line += ": " + detail;
  return line;
}

}  // namespace cachecard
