#pragma once

#include <map>
#include <set>
#include <vector>

#include "cachecard/card.hpp"
#include "cachecard/digest.hpp"
#include "format/section_rules.hpp"

namespace cachecard {

/// Takes frame headers in file order and holds each one to the spec; knows what the file holds so
/// far. The one judge for reader, sequential reader and writer.
/// Invariant: everything accepted tiles the file from the header's end to next_offset().
/// spec: FORMAT.md#frame-checks
class FrameWalk {
 public:
  FrameWalk(const Prologue& prologue, std::span<const std::byte> prologue_bytes,
            std::span<const std::byte> header_bytes, const CardHeader& header, const Limits& limits);

  /// bytes: the frame header as it stands in the file. Errors: see FORMAT.md#frame-checks
  Status accept(const FrameHeader& frame, std::span<const std::byte> bytes);

  /// Adds values of a planes chunk to the summary's widths: they stand in the map, which this does not see.
  void count_width(const FrameHeader& frame, std::uint8_t width, std::uint64_t values);

  /// After the directory: every stream covered, every section there that must be.
  Status finish() const;

  std::uint64_t next_offset() const { return next_offset_; }
  std::uint64_t frame_count() const { return frame_count_; }
  std::uint64_t skipped_sections() const { return skipped_; }
  bool at_end() const { return directory_seen_; }
  std::uint64_t summary_offset() const { return summary_offset_; }
  std::uint64_t directory_offset() const { return directory_offset_; }
  /// Of all frame headers so far: what the directory's payload must be.
  std::uint64_t headers_digest() const { return headers_.finish64(); }
  /// Totals of the frames before the summary.
  Summary summary() const;
  /// root, given the trailer's first 32 bytes.
  Digest128 root(std::span<const std::byte> trailer_before_root) const;

 private:
  Status check_known(const FrameHeader& frame, const SectionRule& rule);
  Status check_scope(const FrameHeader& frame, const SectionRule& rule) const;
  Status check_span(const FrameHeader& frame, const SectionRule& rule) const;
  Status check_sizes(const FrameHeader& frame) const;
  Status check_features(const FrameHeader& frame, const SectionRule& rule) const;
  Status check_order(const FrameHeader& frame, const SectionRule& rule) const;
  Status check_chunk(const FrameHeader& frame);
  Status check_chunk_rows(const FrameHeader& frame, const StreamRecord& stream, std::uint64_t& next);
  Status check_chunk_codec(const FrameHeader& frame, const StreamRecord& stream) const;
  Status check_chunk_references(const FrameHeader& frame, const StreamRecord& stream) const;
  Status check_opaque(const FrameHeader& frame, const StreamRecord& stream, std::uint64_t& done);
  void account(const FrameHeader& frame);

  struct StageKey {
    std::uint16_t section_type;
    std::uint8_t codec;
    std::uint8_t compressor;
    auto operator<=>(const StageKey&) const = default;
  };
  struct Placed {
    std::uint16_t section_type;
    std::uint64_t digest;
    auto operator<=>(const Placed&) const = default;
  };

  const Prologue prologue_;
  const CardHeader& header_;
  const Limits limits_;
  Digester root_;
  Digester headers_;
  std::uint64_t next_offset_ = 0;
  std::uint64_t frame_count_ = 0;
  std::uint64_t skipped_ = 0;
  std::uint64_t summary_offset_ = 0;
  std::uint64_t directory_offset_ = 0;
  bool summary_seen_ = false;
  bool directory_seen_ = false;
  std::map<std::uint64_t, std::size_t> stream_of_;    ///< layer << 8 | stream -> index
  std::vector<std::uint64_t> stream_next_;            ///< next token, or opaque bytes so far
  std::set<Placed> placed_;                           ///< what chunks may name
  std::set<std::pair<std::uint16_t, std::uint32_t>> seen_;  ///< (type, segment) that occur once
  std::map<std::uint32_t, std::uint64_t> map_of_segment_;
  std::map<StageKey, SummaryStage> stages_;
  std::map<std::pair<std::uint8_t, std::uint8_t>, std::uint64_t> widths_;
  std::uint64_t value_count_ = 0;
  std::uint64_t opaque_size_ = 0;
};

}  // namespace cachecard
