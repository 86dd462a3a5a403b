#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "cachecard/card.hpp"
#include "cachecard/io.hpp"

namespace cachecard {

/// A section ready for the file. Chunks are encoded on any thread, then appended in order.
struct EncodedSection {
  FrameHeader frame;                 ///< offset and check are set by CardWriter
  std::vector<std::byte> buffer;     ///< owns the payload unless it is the caller's
  std::span<const std::byte> stored;
};

/// Compresses (as frame.compressor asks; falls back to none where that is not smaller) and digests.
/// frame: everything but sizes, digest, offset and check. payload must outlive the result.
Result<EncodedSection> encode_section(FrameHeader frame, std::span<const std::byte> payload,
                                      int zstd_level = 3);

/// Rows [token][channel] of a stream as a chunk: checks the size, then encode_section.
/// Spec: CODECS.md
Result<EncodedSection> encode_chunk(const CardHeader& header, std::size_t stream_index,
                                    FrameHeader frame, std::span<const std::byte> rows,
                                    int zstd_level = 3);

/// Why a chunk that was to be planes or entropy is raw. spec: CODECS.md#planes-encode, CODECS.md#entropy-encode
enum class RawReason : std::uint8_t {
  kNonFinite,   ///< a NaN or an infinity, and keep_nonfinite
  kOutOfReach,  ///< a head vector that the scale does not reach, or values that would decode to infinities; entropy:
                ///< values too far from the rest, or too large for RoPE's sums
  kWorse,       ///< planes at 8 bits, and q8_0 would keep it better for its size
  kLarger,      ///< entropy: not smaller than raw
};
std::string_view name_of(RawReason reason) noexcept;

struct RawChunk {
  std::uint32_t layer = 0;
  StreamKind stream = StreamKind::kKey;
  std::uint64_t first_token = 0;
  std::uint64_t token_count = 0;
  RawReason reason = RawReason::kOutOfReach;
};

struct WriteReport {
  Digest128 root{};
  std::uint64_t file_size = 0;
  Summary summary;
  std::vector<RawChunk> raw_chunks;  ///< of write_card with planes or entropy: what was kept raw, in file order
};

/// Writes a card in one forward pass. Every frame header is held to the reader's own rules before
/// it is written, so that no call makes a card that CardReader refuses.
class CardWriter {
 public:
  /// features: kFeature... bits that may occur. Errors: as parse_header, io
  static Result<CardWriter> create(ByteSink& sink, const CardHeader& header,
                                   std::uint64_t required_features, std::uint64_t optional_features,
                                   const Limits& limits = {});
  CardWriter(CardWriter&&) noexcept;
  CardWriter& operator=(CardWriter&&) noexcept;
  ~CardWriter();

  /// Returns the frame as written. Errors: invalid_argument (naming the rule), io
  Result<FrameHeader> append(const EncodedSection& section);
  /// Encodes and appends a small section.
  Result<FrameHeader> add(FrameHeader frame, std::span<const std::byte> payload);

  /// Bytes written so far.
  std::uint64_t size() const;

  /// Summary, directory and trailer. The sink is not committed.
  Result<WriteReport> finish(double predicted_error = 0.0);

 private:
  struct State;
  explicit CardWriter(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

/// A frame header with the flags that its type has in the spec.
FrameHeader make_frame(SectionType type, std::uint32_t segment = kNoSegment);

/// Where a card's values come from: a foreign file, a live cache, another card.
class CacheSource {
 public:
  virtual ~CacheSource() = default;
  /// One segment or more; streams say dtype, shape, rotation and span.
  virtual const CardHeader& header() const = 0;
  /// Empty where header().flags has kHeaderTokensUnknown.
  virtual std::span<const std::int32_t> token_ids() const = 0;
  /// One per token, in position order.
  virtual std::span<const std::int32_t> positions() const = 0;
  /// out[token][channel] in the stream's own dtype. Thread-safe. Token numbers are the card's.
  virtual Status read_rows(std::size_t stream_index, std::uint64_t first_token,
                           std::uint64_t token_count, std::span<std::byte> out) const = 0;
  virtual Status read_opaque(std::size_t stream_index, std::uint64_t offset,
                             std::span<std::byte> out) const;
  virtual const SourceLayout* source_layout() const { return nullptr; }
  /// Literal bytes of the source layout's recipe, source_layout()->record.literal_size in all.
  virtual Status read_literals(std::uint64_t offset, std::span<std::byte> out) const;
  virtual const RopeTable* rope_table() const { return nullptr; }
  virtual std::string_view text() const { return {}; }
};

/// Bits of one token, 1 to 8; 0: exact.
struct TokenBits {
  std::uint8_t key = 0;  ///< latent too
  std::uint8_t value = 0;
};

/// Lossy coding as bit planes. spec: CODECS.md#planes
struct PlanesOptions {
  std::uint8_t key_bits = 4;  ///< latent too
  std::uint8_t value_bits = 3;
  std::uint64_t exact_tokens = 4;      ///< first tokens of the card that stay as they are: attention sinks
  std::vector<std::uint64_t> sinks;    ///< others, ascending, that get three bits more, where all layers have them: find_sinks (allocate.hpp)
  std::uint64_t newest_tokens = 0;     ///< last tokens of the card, which get a bit more, unless a layer has 8 already
  std::vector<TokenBits> layer_bits;   ///< 1 to 8 by layer, in place of key_bits and value_bits; empty: none
  /// One a token of the card, in place of key_bits, value_bits, exact_tokens and newest_tokens; empty: none. Beside layer_bits a token
  /// gets those of the layer, plus what its own are above key_bits and value_bits.
  std::vector<TokenBits> token_bits;
  bool keep_nonfinite = false;         ///< keep a chunk with NaN or infinite values raw; else non_finite
};

/// Lossy coding with uniform steps, entropy coded. spec: CODECS.md#entropy
/// How a card's values were coded before, where that card is the source.
struct EarlierCoding {
  double predicted_error = 0.0;  ///< of its summary
  std::vector<float> steps;      ///< lane_stream.step by stream of the header, 0 where there is none: EntropyOptions::step is relative to it
  std::vector<std::int8_t> token_offsets;  ///< as EntropyOptions has them
};

struct EntropyOptions {
  double bits = 2.0;               ///< wanted bits a value of the whole file (but text, source layout and opaque state), 0.05 to
                                   ///< 4,096; more than about 7 for each coded value are not used
  double step = 0.0;               ///< in place of bits, where above 0: of gain 1, over the root mean square of each stream (means
                                   ///< off), 2^-7 to 2^8
  std::uint64_t exact_tokens = 4;  ///< first tokens of the card that stay as they are: attention sinks
  std::uint64_t fine_tokens = 0;   ///< tokens behind them that are kept at 8 bits
  std::vector<std::uint64_t> sinks;  ///< others that stay as they are, ascending
  /// Factor on the steps of each (stream, KV head) in the map's order, above 0; empty: all 1.
  std::vector<float> gains;
  /// Factor on the steps of each channel, in card order, of all streams in the header's order, above 0; empty: all 1.
  /// An opaque stream has none.
  std::vector<float> channel_gains;
  /// Offsets [use][token of the card] in half bits, -7 to 8, two more halve the step; use: (stream, KV head) in the map's
  /// order. Empty: all 0.
  std::vector<std::int8_t> token_offsets;
  bool fixed_offsets = false;      ///< extend_card takes them as they are, and does not shift them towards BASE's mean
  /// What errors of each (stream, KV head) cost, as ModelProfile has it: nats for (step / root mean square of the stream) squared.
  /// For the summary's predicted_error; empty: no estimate.
  std::vector<double> costs;
  /// Of values that lie on the grid of an earlier coding: steps are relative to that one's, and the errors add up, in place of costs.
  std::optional<EarlierCoding> earlier;
  bool keep_nonfinite = false;     ///< keep a chunk with NaN or infinite values raw; else non_finite
  bool means = true;               ///< take off keys' channel means
  bool references = true;          ///< predict rows from earlier ones
  bool value_scales = true;        ///< steps of values go with the square root of their head vector
};

struct CardOptions {
  std::optional<PlanesOptions> planes;        ///< of f32, f16 and bf16 streams; absent: raw
  std::optional<EntropyOptions> entropy;      ///< in place of planes
  /// The most bytes that the whole file may take, in place of EntropyOptions::bits; 0: by bits. With entropy alone. At least 0.995
  /// of them are used where finer steps can use them; all is encoded twice, or once more where the first try missed.
  std::uint64_t file_bytes = 0;
  Compressor compressor = Compressor::kNone;  ///< of chunks
  int zstd_level = 3;
  std::uint64_t chunk_tokens = 2048;
  ChunkOrder chunk_order = ChunkOrder::kLayerMajor;
  bool source_layout = true;
  ProvenanceEntry provenance;
  std::vector<ProvenanceEntry> earlier_provenance;  ///< steps before it
  ParallelFor parallel;
  Limits limits;
  /// Called after each batch with stored bytes so far and in all; false stops with `interrupted`.
  std::function<bool(std::uint64_t done, std::uint64_t total)> progress;
};

/// Writes source as a card: `raw`, `planes` or `entropy` for f32, f16 and bf16 streams, `ggml` for block types.
/// planes reads every row twice: once for the means, once to code it; entropy five or six times, to find its steps.
/// Errors: those of source and sink, non_finite (naming layer, head and token), invalid_argument (bits out of range or out
/// of reach, file_bytes below the smallest card, naming it, token_bits, gains or token_offsets of another length)
/// Memory: CardOptions::parallel.width chunks (read and encoded) and the small sections.
Result<WriteReport> write_card(const CacheSource& source, ByteSink& sink,
                               const CardOptions& options = {});

/// Token spans of a stream's chunks: chunk_tokens each, fewer where rows are wide, a remainder under
/// half joins its neighbour. spec: FORMAT.md#chunks
struct TokenSpan {
  std::uint64_t first_token;
  std::uint64_t token_count;
};
std::vector<TokenSpan> plan_chunks(std::uint64_t first_token, std::uint64_t token_count,
                                   std::uint64_t row_bytes, std::uint64_t chunk_tokens,
                                   const Limits& limits = {});

}  // namespace cachecard
