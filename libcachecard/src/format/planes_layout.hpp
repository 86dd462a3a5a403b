#pragma once

#include <array>
#include <span>
#include <vector>

#include "cachecard/card.hpp"

/// Where things stand in a chunk of the codec `planes`: bytes and counts, no values. spec: CODECS.md#planes
namespace cachecard {

inline constexpr std::uint32_t kLargestPlanesHadamard = 128;
inline constexpr std::uint32_t kMostPlanesParts = 64;
inline constexpr std::uint32_t kMostBits = 8;
inline constexpr std::int16_t kLeastTop = -1344;
inline constexpr std::int16_t kMostTop = 1600;

/// How the tokens of a chunk lie in it, as its map says.
struct PlanesTokens {
  std::vector<std::uint8_t> coded_width;  ///< by token of the chunk, in bits; 0: exact
  std::vector<std::uint32_t> place;       ///< by token: index among the coded (or exact) tokens
  std::vector<std::uint32_t> order;       ///< coded tokens in coded order
  std::array<std::uint32_t, kMostBits + 1> longer{};  ///< longer[p]: coded tokens that plane p holds
  std::uint32_t coded_count = 0;
  std::uint32_t exact_count = 0;
  std::uint32_t plane_count = 0;  ///< planes that are left

  std::uint32_t present_width(std::size_t token) const {
    return coded_width[token] < plane_count ? coded_width[token] : plane_count;
  }
};

/// Errors: corrupt at frame_header.map_digest: a width that planes do not have, heads with different rows.
/// Needs: the frame passed FrameWalk, the map is its segment's.
Result<PlanesTokens> planes_tokens(const CardHeader& header, const BitWidthMap& map, const FrameHeader& frame);

class FrameWalk;
/// Adds the chunk's values to the summary's widths, by the width that is left of each token.
void count_planes(const CardHeader& header, const FrameHeader& frame, const PlanesTokens& tokens, FrameWalk& walk);

/// Groups of one head, in card order: what has a scale of its own.
std::vector<std::uint32_t> planes_groups(const StreamRecord& stream, const Parameters& parameters);

/// Whether parts, RoPE table and hadamard_size of the parameters fit the stream's heads.   Errors: as below
Status check_card_order(const StreamRecord& stream, const Parameters& parameters, const RopeTableHeader* table);

/// Whether the parameters fit the stream. table: the record of the one that they name, or null. Their data may be gone.
/// Errors: corrupt without a place (the caller knows whose chunk it is)
Status check_planes_parameters(const StreamRecord& stream, const Parameters& parameters, const RopeTableHeader* table);

/// The head of a chunk. Spans point into the payload that it was parsed from.
struct PlanesHead {
  PlanesRecord record;
  std::size_t unit_count = 0;  ///< head vectors of a row
  std::vector<std::int16_t> top;
  std::span<const std::byte> scale;       ///< [coded token][unit]
  std::span<const std::byte> exact_rows;
  std::array<PlaneRecord, kMostBits> planes{};
  std::array<std::uint64_t, kMostBits> plane_offset{};  ///< from the payload's first byte
  std::uint64_t size = 0;                 ///< digest_size
};

/// Sizes of a head with these counts.
struct PlanesHeadSizes {
  std::uint64_t scale_offset;
  std::uint64_t exact_offset;
  std::uint64_t table_offset;
  std::uint64_t size;
};
PlanesHeadSizes planes_head_sizes(std::size_t unit_count, std::uint64_t coded_count, std::uint64_t exact_count,
                                  std::uint64_t row_size, std::uint32_t plane_count);

/// Parses the head of a chunk and holds it to its map. head: the payload's first frame.digest_size bytes, digest checked.
/// Errors: bad_size, reserved_not_zero, corrupt, placed at the payload
Result<PlanesHead> parse_planes_head(const StreamRecord& stream, const FrameHeader& frame, const PlanesTokens& tokens,
                                     std::size_t unit_count, std::span<const std::byte> head);

/// Planes against the table's digests. payload: all of it. Errors: checksum_mismatch at the plane's first byte
Status check_plane_digests(const FrameHeader& frame, const PlanesHead& head, std::span<const std::byte> payload);

/// The same without a map, for whoever passes payloads on: what the head says of its planes must tile the rest.
/// Errors: bad_size, checksum_mismatch
Status check_planes_of_head(const FrameHeader& frame, std::span<const std::byte> payload);

}  // namespace cachecard
