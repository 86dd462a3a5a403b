#pragma once

#include <map>
#include <set>
#include <vector>

#include "edit/cut.hpp"

namespace cachecard {

/// What an edit takes over besides segments, their tables and chunks.
struct KeepRules {
  bool text_and_media = false;  ///< of segments that stay whole
  bool opaque = true;
  bool any_copy_safe = false;   ///< those of segments too
};

/// What an edit leaves out unless its rules say otherwise; directory, summary and the like are made anew.
bool is_optional(const FrameHeader& frame);

/// Writes what stays of a card into another one: verbatim where a segment stays whole, cut to the same bits elsewhere.
/// Both headers and the card outlive it; segments of the new header begin with those that stay.
class KeptSections {
 public:
  KeptSections(const CardReader& card, const Cut& cut, const TrimOptions& options, KeepRules rules);

  /// Segments that stay, with their new token numbers.
  const std::vector<SegmentRecord>& segments() const { return segments_; }

  /// All of it, in the card's order, behind the segments' own tables. Errors: not_restorable, and those of reader and writer
  Status write(const CardHeader& header, CardWriter& writer);

  std::uint64_t copied_chunks() const { return copied_chunks_; }  ///< payload bytes taken over verbatim
  std::uint64_t cut_chunks() const { return cut_chunks_; }
  std::uint64_t lowered_chunks() const { return lowered_chunks_; }
  /// Names of sections that were left behind.
  const std::vector<std::string>& dropped() const { return dropped_; }
  /// Digests of the sections that chunks name, as they stand in the new card.
  const std::set<std::uint64_t>& named() const { return named_; }

 private:
  Status add_segment_sections(std::uint32_t new_segment);
  Status add_map(std::uint32_t new_segment, FrameHeader frame);
  Status add_section(std::size_t index);
  Status add_named(std::size_t index);
  Status add_chunk(std::size_t index);
  Status add_cut_chunk(const FrameHeader& old, FrameHeader frame, TokenSpan span);
  Status add_references(FrameHeader frame, std::size_t index);
  Status add_cut_entropy(const FrameHeader& old, FrameHeader frame, TokenSpan span);
  Status add_cut_planes(const FrameHeader& old, FrameHeader frame, TokenSpan span);
  Status add_parameters(FrameHeader frame, std::size_t index);
  Status find_users();
  bool keeps(const FrameHeader& chunk) const;
  Status copy_section(const FrameHeader& frame, std::size_t index);
  bool is_whole(std::uint32_t old_segment) const;
  bool is_lowered(const FrameHeader& old, const FrameHeader& frame) const;
  std::uint8_t new_cap(const BitWidthMap& map, std::uint32_t stream) const;
  void note_dropped(const FrameHeader& frame);

  const CardReader& card_;
  const Cut& cut_;
  const TrimOptions& options_;
  KeepRules rules_;
  const CardHeader* header_ = nullptr;
  CardWriter* writer_ = nullptr;
  std::vector<SegmentRecord> segments_;
  std::vector<std::uint32_t> old_segment_;  ///< by new segment
  std::vector<std::uint32_t> new_segment_;  ///< by old segment, kNoSegment where none is left
  bool same_streams_ = false;               ///< maps have a place for the same streams
  std::vector<std::int32_t> token_ids_;
  std::vector<std::int32_t> positions_;
  std::map<std::uint32_t, std::uint64_t> map_digest_;  ///< by new segment
  std::map<std::uint32_t, BitWidthMap> maps_;          ///< by new segment, where chunks may be lossy
  std::map<std::uint32_t, std::vector<std::uint8_t>> old_cap_;  ///< by new segment: what the old map says
  std::map<std::uint64_t, std::set<std::uint32_t>> users_;      ///< of parameters and references: new segments
  /// Positions, references and parameters of a new segment, by what they were.
  std::map<std::pair<std::uint64_t, std::uint32_t>, std::uint64_t> digest_of_;
  std::set<std::uint64_t> named_;
  std::vector<std::string> dropped_;
  std::uint64_t copied_chunks_ = 0;
  std::uint64_t cut_chunks_ = 0;
  std::uint64_t lowered_chunks_ = 0;
};

}  // namespace cachecard
