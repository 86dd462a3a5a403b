#pragma once

#include <map>

#include "cachecard/card.hpp"
#include "cachecard/records.hpp"
#include "format/planes_layout.hpp"

namespace cachecard {

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
  /// Of that chunk.
  const PlanesTokens& planes() const { return tokens_; }
  /// Sums that only the end shows.
  Status finish(std::uint64_t directory_offset) const;

 private:
  Status check_map(const FrameHeader& frame, std::span<const std::byte> payload);
  Status check_rope_table(const FrameHeader& frame, std::span<const std::byte> payload);
  Status check_parameters(const FrameHeader& frame, std::span<const std::byte> payload);
  Status check_planes_chunk(const FrameHeader& frame, const StreamRecord& stream, const Parameters& parameters) const;
  Status check_summary(std::span<const std::byte> payload, const Summary& expected) const;

  const CardHeader& header_;
  const Limits& limits_;
  std::map<std::uint32_t, BitWidthMap> maps_;           ///< by segment: digests may collide, sizes may not
  std::uint64_t map_bytes_ = 0;                         ///< of all maps, decoded
  std::map<std::uint64_t, Parameters> parameters_;      ///< without their data
  std::map<std::uint64_t, RopeTableHeader> rope_tables_;
  std::map<std::uint32_t, std::uint64_t> positions_of_;  ///< segment -> digest
  std::map<std::uint64_t, std::uint16_t> digests_;      ///< what parameters may name -> section type
  PlanesTokens tokens_;                                 ///< of the latest planes chunk
  std::size_t unit_count_ = 0;
  std::uint64_t literal_size_ = 0;
  std::uint64_t literals_seen_ = 0;
};

}  // namespace cachecard
