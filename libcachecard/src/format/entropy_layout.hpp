#pragma once

#include <span>
#include <vector>

#include "cachecard/card.hpp"

/// Where things stand in a chunk of the codec `entropy`: bytes and counts, no values. spec: CODECS.md#entropy
namespace cachecard {

inline constexpr std::int8_t kLeastTokenOffset = -7;  ///< half bits; the step's exponent is its negative
inline constexpr std::int8_t kMostTokenOffset = 8;
inline constexpr std::uint32_t kMostDistance = 4095;
inline constexpr std::uint16_t kSecondClass = 1u << 12;
inline constexpr std::uint16_t kTableSet = 1;
inline constexpr float kLeastStep = 0x1p-64f;
inline constexpr float kMostStep = 0x1p64f;
inline constexpr float kMostFineScale = 0x1p64f;
inline constexpr std::uint32_t kStripWidth = 64;

/// How a token of a chunk is kept, in all heads alike.
enum class TokenKind : std::uint8_t { kCoded, kExact, kFine };

/// The tokens of a chunk, as its map says.
struct EntropyTokens {
  std::vector<TokenKind> kind;
  std::vector<std::uint32_t> place;    ///< index among the tokens of the same kind
  std::vector<std::int8_t> exponents;  ///< [head][token]: of the token's step, half octaves, -8 to 7
  std::uint32_t coded_count = 0;
  std::uint32_t exact_count = 0;
  std::uint32_t fine_count = 0;

  std::size_t count() const { return kind.size(); }
  std::span<const std::int8_t> of_head(std::size_t head) const {
    return std::span(exponents).subspan(head * count(), count());
  }
};

/// Errors: corrupt at frame_header.map_digest: an offset that entropy does not have, heads that differ in what is exact.
/// Needs: the frame passed FrameWalk, the map is its segment's.
Result<EntropyTokens> entropy_tokens(const CardHeader& header, const BitWidthMap& map, const FrameHeader& frame);

class FrameWalk;
/// Adds the chunk's values to the summary's widths: what the map predicts for each head and token.
void count_entropy(const CardHeader& header, const BitWidthMap& map, const FrameHeader& frame, FrameWalk& walk);

/// Whether parameters and lanes fit the stream. table: the record of the one that the parameters name, or null.
/// Errors: corrupt without a place (the caller knows whose chunk it is)
Status check_entropy_parameters(const StreamRecord& stream, const Parameters& parameters, const LaneStream* lanes,
                                const RopeTableHeader* table);
/// What entropy asks of a parameters section, whatever the stream.   Errors: corrupt, limit_exceeded, bad_size
Status check_entropy_record(const ParameterHeader& record);

/// Strips of a stream's row at most, whatever its groups: each group may end in a narrow one.
constexpr std::uint64_t most_strips(const StreamRecord& stream) {
  const std::uint64_t groups = stream.part_count > 1 ? stream.part_count : 1;
  return stream.kv_head_count * ((std::uint64_t{stream.head_dim} + kStripWidth - 1) / kStripWidth + groups - 1);
}
/// What a token of an entropy chunk counts towards the limit of a section: its strips in f32, narrow ones as whole ones.
constexpr std::uint64_t strip_row_bytes(const StreamRecord& stream) { return most_strips(stream) * kStripWidth * 4; }

/// Strips of one head whose groups have these widths.
std::uint32_t strips_of_head(std::span<const std::uint32_t> group_widths);

/// Errors: corrupt at frame_header.parameter_digest: a reference that leaves the chunk
/// references: of the chunk's tokens
Status check_references(const FrameHeader& frame, std::span<const std::uint16_t> references);

/// A strip's parts. Spans point into the payload, at any alignment.
struct StripBytes {
  StripRecord record;
  std::span<const std::byte> states;
  std::span<const std::byte> escape_keys;
  std::span<const std::byte> escapes;
  std::span<const std::byte> words;
};

/// A chunk's payload, taken apart.
struct EntropyHead {
  EntropyRecord record;
  std::span<const std::byte> exact_rows;
  std::span<const std::byte> fine_rows;  ///< per token: an f32 for each head vector, then an i8 for each channel
  std::span<const std::byte> scales;     ///< the Huffman-coded vector scales
  std::vector<StripBytes> strips;        ///< head by head, group by group
};

/// Bytes of one fine row.
std::size_t fine_row_size(const StreamRecord& stream, std::size_t group_count);

/// Takes a payload apart and holds it to its map. group_widths: of one head.
/// Errors: bad_size, reserved_not_zero, corrupt, non_finite, placed at the payload
Result<EntropyHead> parse_entropy_head(const StreamRecord& stream, const FrameHeader& frame, const EntropyTokens& tokens,
                                       std::span<const std::uint32_t> group_widths, bool has_scale,
                                       std::span<const std::byte> payload);

}  // namespace cachecard
