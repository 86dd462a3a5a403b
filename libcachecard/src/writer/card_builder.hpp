#pragma once

#include <map>
#include <optional>
#include <set>
#include <vector>

#include "cachecard/writer.hpp"
#include "writer/chunk_jobs.hpp"
#include "writer/entropy_plan.hpp"
#include "writer/planes_plan.hpp"

namespace cachecard {

/// Errors: invalid_argument
Status check_card_options(const CacheSource& source, const CardHeader& header, const CardOptions& options);

/// Required feature bits of what options make of a header's streams.
std::uint64_t required_features(const CardHeader& header, const CardOptions& options, bool has_source_layout);

/// Sections that stand in the card already, as an edit has them when it adds a segment.
struct StandingSections {
  std::set<std::uint64_t> digests;  ///< of parameters, lanes, references and rope_tables
  SharedLanes lanes;                ///< what the new segment names again; empty: it has lanes of its own
};

/// Writes the sections of a card, or of segments behind others, from a source. The source's token and stream numbers are the
/// card's. Owns: nothing; all arguments must outlive it
class CardBuilder {
 public:
  CardBuilder(const CacheSource& source, const CardHeader& header, CardWriter& writer,
              const CardOptions& options)
      : source_(source), header_(header), writer_(writer), options_(options) {
    if (options.planes) planes_.emplace(source, header, options);
    if (options.entropy) entropy_.emplace(source, header, options);
  }

  /// Before all else, where the card has other segments.
  void continue_behind(StandingSections standing);
  Status add_source_layout();
  Status add_rope_table();
  /// Segments [first, last of the header]: their sections and chunks.
  Status add_segments(std::uint32_t first);
  /// Opaque streams, which are no segment's, where no segment is added.
  Status add_opaque();
  /// Whether the last segment named the standing lanes.
  bool shares_lanes() const { return entropy_ && entropy_->shares_lanes(); }
  /// Of the segments that were added. spec: FORMAT.md#summary
  double predicted_error() const { return predicted_error_; }
  std::vector<RawChunk> take_raw_chunks() { return std::move(raw_chunks_); }

 private:
  Status add_literals(std::uint64_t size);
  Status add_segment(std::uint32_t segment);
  Status add_parameters(std::uint32_t segment);
  Status add_planes_parameters(std::uint32_t segment, std::uint64_t positions_digest);
  Status add_entropy_sections(std::uint32_t segment);
  Status add_lossy_parameters(std::uint32_t segment, std::size_t stream, const Parameters& parameters);
  Status add_chunks(std::span<const ChunkJob> jobs);
  Status add_batch(std::span<const ChunkJob> jobs);
  Status encode(const ChunkJob& job, std::size_t slot);
  FrameHeader lossy_frame(const ChunkJob& job, FrameHeader frame, Codec codec) const;
  Result<bool> encode_planes_chunk(const ChunkJob& job, FrameHeader frame, std::size_t slot);
  Result<bool> encode_entropy_chunk(const ChunkJob& job, FrameHeader frame, std::size_t slot);
  std::span<const std::int32_t> segment_span(std::span<const std::int32_t> all, std::uint32_t segment) const;

  struct Slot {
    std::vector<std::byte> rows;
    EncodedSection section;
    std::optional<RawReason> raw;  ///< why the chunk is not lossy
  };

  const CacheSource& source_;
  const CardHeader& header_;
  CardWriter& writer_;
  const CardOptions& options_;
  std::map<std::uint32_t, std::uint64_t> parameters_of_;  ///< Hadamard n -> digest
  std::optional<PlanesPlan> planes_;
  std::optional<EntropyPlan> entropy_;
  std::vector<std::uint64_t> lossy_parameters_;  ///< by stream, of the segment at hand
  std::set<std::uint64_t> written_;  ///< digests of parameters, lanes and references
  std::vector<RawChunk> raw_chunks_;
  std::uint64_t rope_table_digest_ = 0;
  std::uint64_t map_digest_ = 0;
  std::uint32_t first_segment_ = 0;  ///< that is added: the source's text is its
  std::vector<Slot> slots_;
  double predicted_error_ = 0.0;
  std::uint64_t done_ = 0;
  std::uint64_t total_ = 0;
};

}  // namespace cachecard
