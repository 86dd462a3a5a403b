#pragma once

#include <optional>
#include <span>

#include "cachecard/reader.hpp"
#include "kernel/planes.hpp"
#include "reader/chunk_context.hpp"

namespace cachecard {

/// Scratch that ChunkRows::open needs: the payload, stored and decoded, and what the codec asks for.
std::size_t chunk_scratch(const StreamRecord& stream, const FrameHeader& frame);

/// The rows of one chunk in the stream's own element type, whatever the codec. Lives as long as its scratch.
class ChunkRows {
 public:
  /// Reads the payload and holds it to its digests. rope_shift: for put_turned.
  /// Errors: checksum_mismatch, corrupt, bad_size, reserved_not_zero, io   Needs: scratch of chunk_scratch bytes
  static Result<ChunkRows> open(const CardReader& card, const FrameHeader& frame, std::span<std::byte> scratch,
                                std::int64_t rope_shift = 0);

  /// One row. Valid until the next call.
  std::span<const std::byte> row(std::uint64_t row) const;
  /// Rows [first, first + count), each put where its heads belong, channels side by side, row_stride bytes behind the one
  /// before. Needs: target.dtype is the stream's
  void put_heads(std::uint64_t first, std::uint64_t count, const kernel::RowTarget& target, std::int64_t row_stride) const;
  /// A row whose codes stand before RoPE, in f32 and with RoPE at its position + rope_shift. False: it is none.
  bool put_turned(std::uint64_t row, std::span<float> out) const;
  /// The chunk as its codes, where it is entropy.
  const EntropyChunk* entropy_chunk() const { return entropy_ ? &*entropy_ : nullptr; }
  /// By token of the chunk, the most that the squared errors of its values add up to before rounding to the element type:
  /// half a step for each that is not exact. 0 where there are no steps.   Needs: bounds of token_count zeros
  void add_squared_bounds(std::span<double> bounds) const;
  /// The chunk as its codes, where it is planes.
  std::optional<PlanesChunk> planes_chunk() const { return head_ ? std::optional(planes()) : std::nullopt; }
  /// Whether no value of a row can be NaN or infinite, as itself or as another float type: coded rows whose scales say so.
  bool surely_finite(std::uint64_t row, DType as) const;
  /// Rows [first, first + count), one after the other.
  void put_rows(std::uint64_t first, std::uint64_t count, std::span<std::byte> out) const;

 private:
  ChunkRows() = default;
  Status open_planes(const CardReader& card, const FrameHeader& frame, std::span<std::byte> scratch,
                     std::int64_t rope_shift);
  Status open_entropy(const CardReader& card, const FrameHeader& frame, std::span<std::byte> scratch,
                      std::int64_t rope_shift);
  bool is_coded() const { return head_ || entropy_; }
  void put_coded(std::uint64_t first, std::uint64_t count, const kernel::RowTarget& target, std::int64_t row_stride) const;
  PlanesChunk planes() const { return {*context_->stream, *context_->tokens, *head_, payload_, context_->angle_data()}; }

  std::span<const std::byte> payload_;
  std::size_t row_size_ = 0;
  std::size_t head_size_ = 0;
  std::uint32_t head_count_ = 0;
  double bound_ = 0.0;  ///< no coded value is larger
  DType dtype_ = DType::kF32;
  // Of entropy only.
  std::optional<EntropyContext> entropy_context_;
  std::optional<EntropyChunk> entropy_;
  // Of planes only.
  std::optional<PlanesContext> context_;
  std::optional<PlanesHead> head_;
  std::span<float> floats_;
  std::span<std::byte> one_row_;
};

}  // namespace cachecard
