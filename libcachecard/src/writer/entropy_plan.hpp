#pragma once

#include <map>
#include <mutex>
#include <optional>
#include <vector>

#include "cachecard/writer.hpp"
#include "codec/entropy_encoder.hpp"
#include "codec/rope_angles.hpp"

namespace cachecard {

/// Lanes of an earlier segment that a stream is coded with again, and what the encoder must know besides.
struct SharedLane {
  std::uint64_t digest = 0;  ///< of the lanes section
  LaneStream lanes;
  float energy = 0.0f;       ///< that vector scales are relative to; 0 without
  std::uint8_t base = 0;     ///< width of the coded values, half bits
  std::vector<std::int8_t> shifts;  ///< by head: what its tokens' offsets have on the mean, where that is above 0
};
using SharedLanes = std::map<std::size_t, SharedLane>;  ///< by stream

inline constexpr double kCloseOctaves = 0.08;  ///< steps this close share lanes: kSafeReach and kSafeGrowth leave room for it

/// Scratch for as many tasks as run at once.
class ScratchPool {
 public:
  struct Return {
    ScratchPool* pool;
    void operator()(EntropyScratch* scratch) const {
      const std::lock_guard lock(pool->mutex_);
      pool->free_.emplace_back(scratch);
    }
  };
  using Lease = std::unique_ptr<EntropyScratch, Return>;
  Lease take() {
    const std::lock_guard lock(mutex_);
    if (free_.empty()) return {new EntropyScratch, Return{this}};
    EntropyScratch* scratch = free_.back().release();
    free_.pop_back();
    return {scratch, Return{this}};
  }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<EntropyScratch>> free_;
};

/// Turns a source's streams into entropy chunks: finds steps, lanes and references of a segment, then codes chunk by chunk.
/// Owns: nothing of the source, which must outlive it.   Spec: CODECS.md#entropy-encode
class EntropyPlan {
 public:
  EntropyPlan(const CacheSource& source, const CardHeader& header, const CardOptions& options)
      : source_(source), header_(header), options_(options) {}

  /// Errors: invalid_argument
  Status check_options() const;
  /// Whether a stream's chunks become entropy: f32, f16 and bf16 do.
  bool codes(std::size_t stream) const;
  /// Reads the segment's rows and settles all but the words. rope_table_digest: 0 without one.
  /// Errors: the source's, invalid_argument where options.bits cannot be had
  Status prepare(std::uint32_t segment, std::uint64_t rope_table_digest, std::uint64_t positions_digest);

  /// Segments that are prepared from now on name these lanes instead of having their own, and so keep their steps, unless
  /// their values are of another kind. Needs: card order as the lanes were made for
  void share(SharedLanes lanes) { shared_ = std::move(lanes); }

  // Of the segment that was prepared:
  bool shares_lanes() const { return shares_; }
  const BitWidthMap& map() const { return map_; }
  /// Rows of offsets by head are a fifth of their bytes under zstd.
  Compressor map_compressor() const {
    return options_.entropy->token_offsets.empty() ? Compressor::kNone : Compressor::kZstd;
  }
  const Lanes& lanes() const { return lanes_; }
  /// Distinct references of the streams that are coded, none where the card has no token ids.
  std::span<const References> references() const { return references_; }
  /// Which of references() a stream uses. Needs: there are some
  std::size_t references_of(std::size_t stream) const { return learned_.at(stream).references; }
  Parameters parameters(std::size_t stream, std::uint64_t lanes_digest, std::uint64_t references_digest) const;

  /// KL of the next token in nats, as options.costs say, of the segment's share of the card; 0 without costs.
  double predicted_error() const;
  double added_up(const EarlierCoding& earlier) const;

  /// A chunk's rows, or why not. Thread-safe.
  EntropyEncoded encode(std::size_t stream, const FrameHeader& frame, std::span<const std::byte> rows);

 private:
  /// What is known of a stream of the segment.
  struct Learned {
    Parameters parameters;
    std::vector<TokenSpan> spans;
    std::vector<std::uint8_t> finite;  ///< by span: others will be refused, or raw, and teach nothing
    std::size_t references = 0;
    std::vector<std::uint16_t> means;
    std::vector<float> relative;  ///< step of each channel relative to the stream's
    std::vector<float> least;     ///< step of each channel below which rows would not reach its larger values
    float spread = 0.0f;          ///< root mean square of the stream's values, means off
    float energy = 0.0f;          ///< its square, where there are vector scales; else 0
    std::uint64_t coded_values = 0;
    std::int64_t exponents = 0;  ///< of the token steps of coded values, half octaves
    std::uint64_t scale_bits = 0;
    std::uint64_t fixed_bits = 0;
    double symbol_bits = 0.0;
    LaneStream lanes;
    std::vector<std::uint8_t> missed;  ///< by token of the segment: must be exact in this stream
    bool at_reach = false;             ///< a smaller step could make more tokens miss
    std::optional<EntropyStream> stream;
    bool fits = true;                  ///< the shared lanes
  };
  /// A strip's values that the search for the step is tried on.
  struct Sample;

  FrameHeader chunk_frame(std::size_t stream, const TokenSpan& span) const;
  BitWidthMap first_map() const;
  void add_references(std::size_t stream);
  std::span<const std::uint16_t> chunk_references(const Learned& learned, const TokenSpan& span) const;
  std::shared_ptr<const Angles> angles(const PlanesStream& order, const TokenSpan& span);
  /// Values of a stream's chunk that is finite, and its energies where the stream has vector scales.
  Status load(std::size_t stream, const PlanesStream& order, const TokenSpan& span, const EntropyTokens& tokens,
              EntropyScratch& scratch);
  bool has_means(const StreamRecord& stream) const;
  /// Means and spreads, of one reading.
  Status learn_spreads(std::size_t stream);
  struct Moments;
  Status add_moments(std::size_t stream, const PlanesStream& order, const TokenSpan& span, Moments& moments);
  void set_moments(const Moments& moments, const StreamRecord& stream, Learned& learned, std::vector<double>& squares) const;
  /// Weights and tables at step_.
  Status learn_lanes(std::size_t stream);
  struct LaneSearch;
  Status load(LaneSearch& search, std::size_t span);
  Status learn_weights(LaneSearch& search);
  Status learn_tables(LaneSearch& search);
  std::vector<kernel::Lane> lanes_at(const Learned& learned, double step, std::vector<float>& scales) const;
  Result<std::vector<Sample>> take_samples();
  Status load_sample(Sample& sample, std::size_t number);
  double sample_bits(std::vector<Sample>& samples, double step);
  double sample_lead(const std::vector<Sample>& samples) const;
  /// Bytes of the file that are neither chunks, lanes nor references.
  Result<std::uint64_t> overhead() const;
  double exact_bytes(std::size_t stream, const Learned& learned) const;
  Status find_step();
  /// Takes a step close to the one that lanes were learned at.
  void adopt_step(double step, double bits_a_value);
  Status each_stream(Status (EntropyPlan::*task)(std::size_t));
  void settle_map();
  /// Takes the stream's lanes from shared_.
  Status adopt_lanes(std::size_t stream);
  Status learn();
  struct Budget {
    std::uint64_t values = 0;
    std::uint64_t coded = 0;  ///< of them
    double other = 0.0;       ///< bits that are not symbols
  };
  Result<Budget> budget() const;
  Result<double> expected_step() const;
  /// How far all offsets of each head are raised. Needs: spreads
  Status set_shifts();
  /// The same, of the shared lanes.
  void adopt_shifts();

  const CacheSource& source_;
  const CardHeader& header_;
  const CardOptions& options_;
  std::uint32_t segment_ = 0;
  double step_ = 1.0;  ///< of the whole card, relative to each stream's spread
  BitWidthMap map_;
  Lanes lanes_;
  std::vector<References> references_;
  std::vector<std::vector<TokenSpan>> reference_spans_;
  std::map<std::size_t, Learned> learned_;
  std::vector<std::int8_t> shifts_;  ///< by use, half bits; empty: 0
  AngleCache angles_;
  SharedLanes shared_;
  bool shares_ = false;
  ScratchPool scratch_;
};

}  // namespace cachecard
