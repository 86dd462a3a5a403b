#pragma once

#include <optional>
#include <string>

#include "cachecard/reader.hpp"

namespace cachecard::tests {

/// What reading everything that a card has came to.
struct Reading {
  std::optional<Error> open_error;
  std::optional<Error> read_error;  ///< the first of all reads, where open succeeded
  std::uint64_t values_digest = 0;  ///< of all values and opaque bytes

  bool ok() const { return !open_error && !read_error; }
};

/// Opens a card and calls every function that reads from it.
Reading read_everything(std::span<const std::byte> card);

/// A pipe: gives a few bytes at a time, and knows neither size nor position.
class DribblingStream final : public ByteStream {
 public:
  explicit DribblingStream(std::span<const std::byte> bytes) : bytes_(bytes) {}
  Result<std::size_t> read(std::span<std::byte> out) override;

 private:
  std::span<const std::byte> bytes_;
  std::size_t call_ = 0;
};

/// verify's verdict as "code offset", or "ok".
std::string verdict_of(ByteStream& stream, bool decode = true);
std::string verdict_of(const Result<VerifyReport>& report);
/// The verdicts over a file and over a pipe, which must be one; joined by " | " where they are not.
std::string verdict_of(std::span<const std::byte> card, bool decode = true);

}  // namespace cachecard::tests
