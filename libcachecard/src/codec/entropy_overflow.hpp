#pragma once

#include "codec/entropy_encoder.hpp"

/// A value near the largest of its element type may decode to infinity: half a step, or RoPE turned back on, takes it beyond.
/// spec: CODECS.md#entropy-encode
namespace cachecard {

/// Which tokens of a stream's chunks could do so.
class EntropyOverflow {
 public:
  /// scales: lane step / 64, by channel of the row   growth: steps may yet become so much larger
  EntropyOverflow(const PlanesStream& order, std::span<const std::uint32_t> group_widths, std::span<const float> scales,
                  double growth);

  /// Whether any token could; cheap, and true too often rather than too rarely.   rows: all of the chunk's
  bool possible(const EntropyTokens& tokens, std::span<const std::byte> rows) const;
  /// Marks the tokens that could, head by head.   chunk, stream_energy: of the same rows, as unit_tokens has them
  void mark(const EntropyTokens& tokens, std::span<const std::byte> rows, const ChunkValues& chunk, float stream_energy,
            std::span<std::uint8_t> missed) const;

 private:
  const PlanesStream& order_;
  std::span<const std::uint32_t> group_widths_;
  std::span<const float> scales_;
  double growth_;
  double safe_;           ///< magnitude
  double fine_;           ///< the same, of values of fine tokens before they are coded
  double largest_error_;  ///< of any coded value, whatever its token's step
  bool reaches_;          ///< some row could hold a value above safe_
};

}  // namespace cachecard
