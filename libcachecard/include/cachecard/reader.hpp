#pragma once

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "cachecard/card.hpp"
#include "cachecard/io.hpp"

namespace cachecard {

class ContextCache;

/// Pages of a paged cache: token t of a request lies in pages[t / page_size], at row t % page_size.
struct BlockTable {
  std::uint64_t page_size = 0;            ///< tokens in a page
  std::span<void* const> pages;           ///< base of each page, same strides inside
};

/// Where decoded values go: what runtimes really have.
/// Value (token, head, channel) lies at base + token*token_stride + head*head_stride +
/// channel*channel_stride, all in bytes; token counts from the request's first token.
struct DecodeTarget {
  void* base = nullptr;
  DType dtype = DType::kF32;  ///< f32, f16 or bf16
  std::int64_t token_stride = 0;
  std::int64_t head_stride = 0;
  std::int64_t channel_stride = 0;
  const BlockTable* blocks = nullptr;  ///< base is ignored where given
};

struct DecodeRequest {
  std::size_t stream = 0;  ///< index into header().streams; not an opaque one
  std::uint64_t first_token = 0;
  std::uint64_t token_count = 0;
  bool keep_rotation = false;  ///< leave Hadamard-rotated values as the source stored them
  /// Keys with RoPE, each at its position + this: those that the card holds without RoPE get it there at once, others turn
  /// by the difference. Absent: as the source stored them. Goes with values, not with keep_rotation.
  /// Errors: not_restorable without a RoPE table, geometry_mismatch for one that no head has room for
  std::optional<std::int64_t> rope_shift{};
  /// The target's order of RoPE pairs: llama.cpp and transformers keep the same model's keys in different ones. kNone: as the
  /// source stored them; streams without pairs ignore it. Goes with values, not with keep_rotation of a rotated stream.
  /// Errors: identity_unknown where the card does not say how many channels rotate, invalid_argument with keep_rotation
  RopePairing rope_pairing = RopePairing::kNone;
  /// Values that are NaN or infinite in the target's type are non_finite, naming layer, stream and token. They are looked
  /// for while they are in the cache.
  bool finite = false;
};

/// What can be known of a card without its directory: for inspect, and to refuse early.
struct CardFacts {
  Prologue prologue;
  CardHeader header;
  Trailer trailer;
  Summary summary;
};

/// Reads prologue, header, trailer and summary only (under 300 KB). Errors: as CardReader::open
Result<CardFacts> read_facts(const ByteSource& source, const Limits& limits = {});

/// A card at rest. open() checks prologue, header, trailer, directory and every frame header;
/// payloads are checked by digest when they are read. Thread-safe once open.
class CardReader {
 public:
  /// Errors: bad_magic, unsupported_*, truncated, corrupt, checksum_mismatch, bad_*, reserved_not_zero,
  ///         limit_exceeded, io.    Owns: nothing; source must outlive the reader
  /// Spec:   FORMAT.md#checks
  static Result<CardReader> open(const ByteSource& source, const Limits& limits = {});

  const Prologue& prologue() const { return prologue_; }
  const CardHeader& header() const { return header_; }
  const Trailer& trailer() const { return trailer_; }
  /// All frames, in file order; summary and directory are the last two.
  std::span<const FrameHeader> frames() const { return frames_; }
  const ByteSource& source() const { return *source_; }
  const Limits& limits() const { return limits_; }

  /// First frame of a type (and segment), or nullopt.
  std::optional<std::size_t> find(SectionType type, std::uint32_t segment = kNoSegment) const;
  /// Frames of a stream's chunks, ascending by first token (opaque: in file order).
  std::span<const std::uint32_t> chunks(std::size_t stream_index) const;

  /// Payload as stored, its digest checked (of planes, the digests of all planes too). Needs: out.size() == frames()[frame].stored_size
  Status read_stored(std::size_t frame, std::span<std::byte> out) const;
  /// Digests of all sections that decoding the first tokens of all streams, and reading opaque ones, do not check.
  /// Errors: as read_stored
  Status check_other_sections(std::uint64_t token_count) const;
  /// Payload decompressed, digest checked.
  Result<std::vector<std::byte>> read_section(std::size_t frame) const;

  Result<std::vector<std::int32_t>> token_ids() const;  ///< tokens_unknown where there are none
  Result<std::vector<PositionRun>> positions() const;   ///< of all segments, in order
  Result<BitWidthMap> map(std::uint32_t segment) const;
  Result<Parameters> parameters(std::uint64_t digest) const;
  Result<Summary> summary() const;
  Result<std::optional<SourceLayout>> source_layout() const;
  Result<std::vector<ProvenanceEntry>> provenance() const;

  /// Bytes of scratch that one task of read_rows or decode needs: twice the largest chunk it touches.
  std::size_t scratch_bytes(std::size_t stream_index) const;

  /// Rows as the source stored them: out[token][channel] in the stream's dtype and rotation.
  /// Errors: checksum_mismatch, corrupt, bad_size, unsupported_codec, invalid_argument, io
  /// Spec:   CODECS.md
  Status read_rows(std::size_t stream_index, std::uint64_t first_token, std::uint64_t token_count,
                   std::span<std::byte> out, std::span<std::byte> scratch) const;
  /// The same, and how many of the values are NaN or infinite (of blocks all where a scale is), counted while they are in
  /// the cache.
  Result<std::uint64_t> read_counted_rows(std::size_t stream_index, std::uint64_t first_token, std::uint64_t token_count,
                                          std::span<std::byte> out, std::span<std::byte> scratch) const;

  /// Decodes values. Work is spread by chunk over parallel; each task takes its scratch from allocator.
  /// Shape:  target (token, head, channel) of the request
  /// Units:  the model's activations
  /// Errors: as read_rows
  Status decode(const DecodeRequest& request, const DecodeTarget& target, const ParallelFor& parallel = {},
                const Allocator& allocator = {}) const;

  /// Most that the squared errors of a frame's values can add up to, in units of the values squared, before rounding to
  /// the element type; 0 for exact codecs. Makes read_rows' checks.   Spec: CODECS.md#planes
  Result<double> squared_error_bound(std::size_t frame) const;

  /// Bytes [offset, offset + out.size()) of an opaque stream.
  Status read_opaque(std::size_t stream_index, std::uint64_t offset, std::span<std::byte> out) const;

  /// Sections that chunks name, opened and kept. Of the library's own sources only.
  ContextCache& contexts() const { return *contexts_; }

 private:
  CardReader();
  void index_chunks();
  /// What the header and the parameters that chunks name both say must agree.
  Status check_parameters() const;
  std::shared_ptr<ContextCache> contexts_;
  const ByteSource* source_ = nullptr;
  Limits limits_;
  Prologue prologue_;
  CardHeader header_;
  Trailer trailer_;
  std::vector<FrameHeader> frames_;
  std::vector<std::uint32_t> chunk_frames_;  ///< grouped by stream
  std::vector<std::uint32_t> chunk_first_;   ///< start of each stream's group
};

/// Takes frames in file order, from a pipe or a file, in bounded memory. Every byte is checked.
struct SequentialVisitor {
  virtual ~SequentialVisitor() = default;
  virtual Status on_header(const Prologue&, const CardHeader&) { return {}; }
  /// stored: the payload, its digest checked.
  virtual Status on_section(const FrameHeader&, std::span<const std::byte> stored) {
    (void)stored;
    return {};
  }
};

struct VerifyOptions {
  bool decode = false;  ///< also decode every chunk
  Limits limits;
  ParallelFor parallel;
};

struct VerifyReport {
  Trailer trailer;
  std::uint64_t skipped_sections = 0;  ///< optional ones that this reader does not know
};

/// One walk in file order: the first defect, with the same code and offset for file and pipe.
/// Errors: every one of the 10s to 30s.   Spec: FORMAT.md#verify
Result<VerifyReport> verify(ByteStream& stream, const VerifyOptions& options = {},
                            SequentialVisitor* visitor = nullptr);

}  // namespace cachecard
