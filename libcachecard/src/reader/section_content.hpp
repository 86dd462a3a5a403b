#pragma once

#include <map>
#include <optional>
#include <set>

#include "cachecard/card.hpp"
#include "cachecard/records.hpp"
#include "codec/entropy_codec.hpp"
#include "format/entropy_layout.hpp"
#include "format/planes_layout.hpp"

namespace cachecard {

class FrameWalk;

/// Holds the contents of sections to the spec while they pass in file order. spec: FORMAT.md#verify
class SectionContent {
 public:
  SectionContent(const CardHeader& header, const Limits& limits) : header_(header), limits_(limits) {}

  /// payload: decoded. expected: totals of the frames before, for a summary.
  Status check(const FrameHeader& frame, std::span<const std::byte> payload, const Summary& expected);
  /// A chunk's header against the contents of the sections that it names.
  Status check_chunk(const FrameHeader& frame);
  /// The payload of a planes chunk that check_chunk has just passed: its head, its planes and their digests.
  Status check_planes(const FrameHeader& frame, std::span<const std::byte> payload) const;
  /// The payload of an entropy chunk that check_chunk has just passed; decode: its strips too.
  Status check_entropy(const FrameHeader& frame, std::span<const std::byte> payload, bool decode);
  /// Adds a chunk's values to the summary's widths.   Needs: check_chunk has just passed it
  void count_widths(const FrameHeader& frame, FrameWalk& walk) const;
  /// Sums that only the end shows.
  Status finish(std::uint64_t directory_offset) const;

 private:
  Status check_map(const FrameHeader& frame, std::span<const std::byte> payload);
  Status check_rope_table(const FrameHeader& frame, std::span<const std::byte> payload);
  Status check_parameters(const FrameHeader& frame, std::span<const std::byte> payload);
  Status check_planes_chunk(const FrameHeader& frame, const StreamRecord& stream, const Parameters& parameters) const;
  Status check_entropy_chunk(const FrameHeader& frame, const StreamRecord& stream, const Parameters& parameters);
  Status check_lanes(const FrameHeader& frame, std::span<const std::byte> payload);
  Status check_references_section(const FrameHeader& frame, std::span<const std::byte> payload);
  Status keep(std::uint64_t bytes, const char* field);
  Status check_summary(std::span<const std::byte> payload, const Summary& expected) const;

  const CardHeader& header_;
  const Limits& limits_;
  std::map<std::uint32_t, BitWidthMap> maps_;           ///< by segment: digests may collide, sizes may not
  std::uint64_t map_bytes_ = 0;                         ///< of all maps, lanes and references, decoded
  std::map<std::uint64_t, Lanes> lanes_;                ///< by digest
  std::map<std::uint64_t, References> references_;      ///< by digest
  std::map<std::uint64_t, Parameters> parameters_;      ///< without their data
  std::map<std::uint64_t, RopeTableHeader> rope_tables_;
  std::map<std::uint32_t, std::uint64_t> positions_of_;  ///< segment -> digest
  std::set<std::pair<std::uint16_t, std::uint64_t>> digests_;  ///< what parameters may name: section type, digest
  PlanesTokens tokens_;                                 ///< of the latest planes chunk
  EntropyTokens entropy_tokens_;                        ///< of the latest entropy chunk
  std::optional<EntropyStream> entropy_stream_;
  std::span<const std::uint16_t> chunk_references_;
  std::vector<std::byte> scratch_;
  std::size_t unit_count_ = 0;
  std::uint64_t literal_size_ = 0;
  std::uint64_t literals_seen_ = 0;
};

}  // namespace cachecard
