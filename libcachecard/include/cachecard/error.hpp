#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

namespace cachecard {

/// Stable codes, spaced by whose fault it is. Never reused. spec: FORMAT.md#error-codes
enum class ErrorCode : std::int32_t {
  kOk = 0,
  // Not a card that we read.
  kBadMagic = 10,
  kUnsupportedVersion = 11,
  kUnsupportedFeature = 12,
  kUnsupportedCodec = 13,
  kForeignInput = 14,
  // Damaged.
  kTruncated = 20,
  kCorrupt = 21,
  kChecksumMismatch = 22,
  kReservedNotZero = 23,
  kBadOffset = 24,
  kBadSize = 25,
  kBadEnum = 26,
  kNonFinite = 27,
  // Refused.
  kLimitExceeded = 30,
  kOutOfMemory = 31,
  // The caller.
  kInvalidArgument = 40,
  kBufferTooSmall = 41,
  // The wrong destination.
  kModelMismatch = 50,
  kGeometryMismatch = 51,
  kPositionMismatch = 52,
  kIdentityUnknown = 53,
  kTokensUnknown = 54,
  kNotRestorable = 55,
  kPartialCard = 56,
  // Outside.
  kIo = 60,
  kTargetUnavailable = 61,
  kTargetBusy = 62,
  kTargetTooSmall = 63,
  kInterrupted = 80,
  kInternal = 90,
};

/// What a code is called, which exit code a command ends with, and what it says.
struct ErrorInfo {
  ErrorCode code;
  std::string_view name;
  int exit_code;
  std::string_view meaning;
};

/// The one table of codes, ends with kInternal. Read by `codecs --errors` and the exit-code test.
/// Owns: nothing; static storage.
const ErrorInfo* error_table(std::size_t* count) noexcept;

/// Row of a code; kInternal's row for a number that is no code.
const ErrorInfo& error_info(ErrorCode code) noexcept;

/// offset is always bytes from the start of the card (or foreign file); kNoOffset where none applies.
inline constexpr std::uint64_t kNoOffset = ~std::uint64_t{0};

struct Error {
  ErrorCode code = ErrorCode::kInternal;
  std::uint64_t offset = kNoOffset;
  std::string field;   ///< record.field as the spec spells it, or empty
  std::string detail;  ///< what was found and what was allowed

  /// One line: "checksum_mismatch at offset 192, frame_header.check: found 1, expected 2".
  std::string message() const;
};

/// A value or the reason why there is none. Early return is written out: `if (!r) return r.error();`
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}          // NOLINT
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}      // NOLINT

  explicit operator bool() const noexcept { return state_.index() == 0; }
  T& value() & { return std::get<0>(state_); }
  const T& value() const& { return std::get<0>(state_); }
  T&& value() && { return std::get<0>(std::move(state_)); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }
  const Error& error() const { return std::get<1>(state_); }

 private:
  std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(std::move(error)) { failed_ = true; }  // NOLINT

  explicit operator bool() const noexcept { return !failed_; }
  const Error& error() const { return error_; }

 private:
  bool failed_ = false;
  Error error_;
};

using Status = Result<void>;

}  // namespace cachecard
