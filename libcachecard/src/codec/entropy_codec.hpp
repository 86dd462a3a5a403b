#pragma once

#include <optional>
#include <span>
#include <vector>

#include "codec/planes_codec.hpp"
#include "format/entropy_layout.hpp"
#include "kernel/entropy.hpp"

/// The codec `entropy`: rows to strips and back. spec: CODECS.md#entropy
namespace cachecard {

/// What fixes the coding of a stream in a segment: its parameters and lanes, opened.
class EntropyStream {
 public:
  /// Needs: check_entropy_parameters passed.
  EntropyStream(const StreamRecord& stream, const Parameters& parameters, const LaneStream& lanes, const RopeTable* table);

  /// Card order, means and RoPE: what entropy shares with planes.
  const PlanesStream& order() const { return order_; }
  std::span<const std::uint32_t> group_widths() const { return group_widths_; }
  std::span<const kernel::Lane> lanes() const { return lanes_; }
  /// One a channel, in card order: lane step / 64.
  std::span<const float> scales() const { return scales_; }
  bool has_scale() const { return has_scale_; }
  /// No coded value is larger.
  double bound() const { return bound_; }
  std::size_t strip_count() const { return strips_.size(); }

  /// Where a strip lies in the row, and its channels in the source's head.
  struct StripPlace {
    std::uint32_t head = 0;
    std::uint32_t unit = 0;     ///< head vector that it is a part of
    std::uint32_t first = 0;    ///< channel of the row in card order
    std::uint32_t channels = 0;
    std::vector<kernel::StripRun> runs;
  };
  std::span<const StripPlace> strips() const { return strips_; }

 private:
  PlanesStream order_;
  std::vector<std::uint32_t> group_widths_;
  std::vector<kernel::Lane> lanes_;
  std::vector<float> scales_;
  std::vector<StripPlace> strips_;
  bool has_scale_;
  double bound_ = 0.0;
};

/// Step of a token, from its map offset and its vector's scale. spec: CODECS.md#token-steps
kernel::StripToken strip_token(TokenKind kind, std::int32_t exponent, std::int32_t scale, std::uint16_t reference);

/// Memory that EntropyChunk::open needs.
std::size_t entropy_decode_scratch(const StreamRecord& stream, const FrameHeader& frame);

/// A chunk whose strips were decoded: rows in card order, in 1/64 of a lane step.
class EntropyChunk {
 public:
  /// references: of the chunk's tokens, or empty; angles: of its tokens, or null
  /// Errors: corrupt at the payload: a strip that does not decode
  /// Needs: check_references passed; scratch of entropy_decode_scratch bytes, aligned to 64, lives as long as this
  static Result<EntropyChunk> open(const EntropyStream& stream, const EntropyTokens& tokens, const EntropyHead& head,
                                   std::span<const std::uint16_t> references, const FrameHeader& frame,
                                   std::span<std::byte> scratch);

  /// Tokens [first, first + count) of the chunk, in the stream's channel order; each row_stride bytes behind the one before.
  /// Exact tokens come out only where target.dtype is the stream's.
  void put(std::size_t first, std::size_t count, const kernel::RowTarget& target, std::int64_t row_stride,
           const float* angles) const;
  bool is_exact(std::size_t token) const { return tokens_->kind[token] == TokenKind::kExact; }
  bool is_coded(std::size_t token) const { return tokens_->kind[token] == TokenKind::kCoded; }
  std::span<const kernel::StripToken> unit_steps(std::size_t unit) const {
    return steps_.subspan(unit * tokens_->count(), tokens_->count());
  }
  std::span<const std::int16_t> strip_rows(std::size_t strip) const {
    return rows_.subspan(strip * tokens_->count() * kStripWidth, tokens_->count() * kStripWidth);
  }
  const EntropyStream& stream() const { return *stream_; }
  const EntropyTokens& tokens() const { return *tokens_; }
  const EntropyHead& head() const { return head_; }
  std::span<const std::int8_t> unit_scales(std::size_t unit) const {
    return scales_.empty() ? std::span<const std::int8_t>()
                           : std::span(scales_).subspan(unit * tokens_->coded_count, tokens_->coded_count);
  }
  /// Adds for each token half a step squared for every value; nothing for exact ones. bounds: by token of the chunk
  void add_squared_bounds(std::span<double> bounds) const;

 private:
  EntropyChunk() = default;
  void put_coded(std::size_t first, std::size_t count, const kernel::RowTarget& target, std::int64_t row_stride,
                 const float* angles) const;
  void put_fine(std::size_t token, const kernel::RowTarget& target, const float* angles) const;
  void copy_exact(std::size_t token, const kernel::RowTarget& target) const;

  const EntropyStream* stream_ = nullptr;
  const EntropyTokens* tokens_ = nullptr;
  EntropyHead head_;
  std::vector<std::int8_t> scales_;      ///< [unit][coded token]; empty without vector scales
  std::span<kernel::StripToken> steps_;  ///< [unit][token]
  std::span<std::int16_t> rows_;         ///< [strip][token][64]
};

}  // namespace cachecard
