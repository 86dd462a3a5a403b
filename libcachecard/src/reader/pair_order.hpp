#pragma once

#include <optional>
#include <vector>

#include "cachecard/reader.hpp"

namespace cachecard {

/// Moves a key's channels from the order of RoPE pairs that the source kept to another one: llama.cpp and transformers
/// pair other channels of the same model. Values do not change.
class PairOrder {
 public:
  /// nullopt where nothing moves: no key, no RoPE, the same order, or none asked for.
  /// Errors: identity_unknown where the card does not say how many channels rotate, the reader's
  static Result<std::optional<PairOrder>> make(const CardReader& card, const StreamRecord& stream, RopePairing wanted);

  /// The heads of one token, in place. before: scratch_bytes() of memory. Needs: target.dtype is a float
  void apply(std::byte* token, const DecodeTarget& target, std::span<std::byte> before) const;
  std::size_t scratch_bytes() const { return 2 * channels_.size() * sizeof(float); }

 private:
  std::uint32_t head_count_ = 0;
  std::uint32_t offset_ = 0;             ///< of the rotated channels in a head
  bool to_halves_ = false;               ///< the wanted order is half_split
  std::vector<std::uint32_t> channels_;  ///< channel c of the wanted order is channel channels_[c] of the source's
};

}  // namespace cachecard
