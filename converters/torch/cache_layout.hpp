#pragma once

#include <optional>
#include <span>
#include <vector>

#include "cachecard/card.hpp"

namespace cachecard::pytorch {

/// What tensors do not say about themselves. Nothing is guessed: what is left out is unknown.
struct CacheFacts {
  Identity identity;
  std::vector<std::int32_t> token_ids;  ///< empty: unknown
  std::vector<std::int32_t> positions;  ///< empty: 0, 1, 2, ..., as every unpadded sequence has
  RopeState rope_state = RopeState::kNone;
  RopePairing rope_pairing = RopePairing::kNone;  ///< the tensors' channel order
  std::vector<std::uint8_t> layer_has_rope;       ///< per layer; empty: all
  std::uint32_t rotated_offset = 0;               ///< first rotated channel of a key head
  std::uint32_t rotated_width = 0;                ///< 0: the whole head
  std::optional<RopeTable> rope_table;
};

/// Shape of one layer's keys and values.
struct LayerShape {
  DType key_dtype = DType::kF16;
  DType value_dtype = DType::kF16;
  std::uint32_t kv_head_count = 0;
  std::uint32_t key_head_dim = 0;
  std::uint32_t value_head_dim = 0;
  std::uint64_t token_count = 0;
  std::optional<std::uint64_t> first_token;  ///< nullopt: 0, or, with a window, so that it holds the newest
  std::uint32_t window = 0;                  ///< 0: full attention
};

/// A card's header and per-token facts for a cache whose layer i is shapes[i].
struct CacheLayout {
  CardHeader header;
  std::vector<std::int32_t> token_ids;
  std::vector<std::int32_t> positions;
};

/// Errors: foreign_input naming the layer or list that does not fit, limit_exceeded
Result<CacheLayout> lay_out(std::span<const LayerShape> shapes, CacheFacts facts);

}  // namespace cachecard::pytorch
