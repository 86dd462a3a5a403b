#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cachecard/match.hpp"
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
  std::uint64_t coded_chunks = 0;    ///< coded anew with larger steps: requantise
  std::uint64_t encodes = 0;         ///< how often they were, until the budget was met
};

/// Keeps tokens [first, end) and layers [first, end) bit for bit; with bits, drops planes. spec: FORMAT.md#trim
/// Errors: invalid_argument, not_restorable, and the reader's
Result<TrimReport> trim(const CardReader& card, ByteSink& sink, const TrimOptions& options);

/// A card's values, tokens and text as the source of another. card must outlive it. Errors: the reader's
Result<std::unique_ptr<CacheSource>> card_as_source(const CardReader& card);

struct RequantiseOptions {
  double bits = 0.0;             ///< a value, of the whole file
  std::uint64_t file_bytes = 0;  ///< as CardOptions has them, in place of bits; 0: none
  std::optional<std::int64_t> time;  ///< for provenance; absent: none
  std::string text;                  ///< for provenance
  ParallelFor parallel;
};

/// Codes an entropy card anew for fewer bytes, from the card alone: the same sinks, and steps whose ratios between channels,
/// heads and tokens are the card's. The errors of both codings add up, in the summary's predicted_error too; provenance counts it.
/// At least 0.995 of the budget is used where steps between the card's own and the coarsest can use it; three or four encodes find them.
/// Errors: unsupported_feature (planes, or nothing that is entropy), those of write_card and the reader's
Result<TrimReport> requantise(const CardReader& card, ByteSink& sink, const RequantiseOptions& options);

struct ExtendOptions {
  CardOptions card;  ///< how new tokens are stored, as for write_card; of its provenance, text and time count
  /// As finely as BASE's last segment: planes by layer; entropy with the same lanes (steps, means, tables) where they fit,
  /// else as many bits a coded value. Bits of `card` do not count then, and token offsets are shifted by head half way to BASE's mean.
  bool bits_of_base = true;
  bool check = false;  ///< compare STATE's values of inherited tokens with BASE's, within what BASE's codec may be off
  std::vector<std::string> allow;  ///< as for match_identity
};

/// Codec, compressor and order of chunks of BASE's last segment.
CardOptions options_of_base(const CardReader& base);

/// Where STATE's tokens stop being BASE's.
struct Parting {
  std::uint64_t token = 0;
  std::int32_t base_id = 0;
  std::int32_t state_id = 0;
  std::int32_t base_position = 0;
  std::int32_t state_position = 0;
};

struct ExtendReport {
  WriteReport written;
  std::uint64_t kept_tokens = 0;     ///< inherited from BASE
  std::uint64_t encoded_tokens = 0;  ///< from STATE: a new segment
  std::uint64_t added_bytes = 0;     ///< of the new segment: its tables and chunks, frames and padding included
  std::uint64_t added_values = 0;
  std::optional<Parting> parting;    ///< absent: STATE begins with all of BASE
  std::uint64_t copied_chunks = 0;   ///< payload bytes taken over verbatim
  bool shared_lanes = false;         ///< entropy: the new segment names lanes of BASE again
  std::vector<std::string> dropped;  ///< names of BASE's sections that were left behind
  std::vector<FieldVerdict> identity;
};

/// The next hop's card: BASE's segments, byte for byte, and what STATE holds beyond them as a new segment. Where STATE
/// leaves BASE's tokens, whole chunks before that are kept and the rest comes from STATE; where it has nothing new, the
/// card has the hop in its provenance and no new segment. spec: FORMAT.md#extend
/// Errors: model_mismatch, identity_unknown, geometry_mismatch, partial_card, tokens_unknown; position_mismatch where no
///         token is common, or STATE is shorter; model_mismatch of values with check; those of write_card and of the reader
Result<ExtendReport> extend_card(const CardReader& base, const CacheSource& state, ByteSink& sink,
                                 const ExtendOptions& options);

}  // namespace cachecard
