#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cachecard/reader.hpp"
#include "cachecard/writer.hpp"

namespace cachecard {

struct TrimOptions {
  std::uint64_t first_token = 0;
  std::optional<std::uint64_t> end_token;  ///< one past the last; absent: to the end
  std::uint32_t first_layer = 0;
  std::optional<std::uint32_t> end_layer;
  std::optional<std::uint8_t> key_bits;    ///< drop planes of keys and latents beyond these, 1 to 8; absent: none
  std::optional<std::uint8_t> value_bits;
  std::optional<std::int64_t> time;  ///< for provenance; absent: none
  ParallelFor parallel;
};

struct TrimReport {
  WriteReport written;
  std::vector<std::string> dropped;  ///< names of sections that a cut cannot keep
  std::uint64_t copied_chunks = 0;   ///< payload bytes taken over verbatim
  std::uint64_t cut_chunks = 0;
  std::uint64_t lowered_chunks = 0;  ///< planes were dropped, none of the others touched
};

/// Keeps tokens [first, end) and layers [first, end) bit for bit; with bits, drops planes. spec: FORMAT.md#trim
/// Errors: invalid_argument, not_restorable, and the reader's
Result<TrimReport> trim(const CardReader& card, ByteSink& sink, const TrimOptions& options);

}  // namespace cachecard
