#pragma once

#include <functional>

#include "card_layers.hpp"

namespace cachecard::pytorch {

struct PtWriteOptions {
  std::optional<DType> dtype;  ///< f32, f16 or bf16; nullopt: each stream's own, f32 for ggml's blocks
  DecodeOptions decode;
  /// Called after each tensor with bytes so far and in all; false stops with `interrupted`.
  std::function<bool(std::uint64_t done, std::uint64_t total)> progress;
};

struct PtWriteReport {
  std::uint64_t file_size = 0;
  std::uint64_t token_count = 0;
};

/// Writes a card as torch.save would write a dict of it (zip container): key_cache and value_cache
/// (lists of contiguous tensors [1, heads, tokens, head_dim]), token_ids (where known) and positions
/// (i64), first_token and window (lists, one number for each layer), rope_state and rope_pairing.
/// One forward pass; memory: one tensor. The sink is not committed.
/// Errors: geometry_mismatch, partial_card, not_restorable, interrupted, those of decode and the sink
Result<PtWriteReport> write_pt(const CardReader& card, ByteSink& sink, const PtWriteOptions& options = {});

/// What stands beside the tensors of that dict.
struct PtFacts {
  std::vector<std::int32_t> token_ids;  ///< empty: unknown
  std::vector<std::int32_t> positions;
  RopeState rope_state = RopeState::kNone;
  RopePairing rope_pairing = RopePairing::kNone;
};
/// Errors: CardReader's
Result<PtFacts> pt_facts_of(const CardReader& card, const DecodeOptions& options);

}  // namespace cachecard::pytorch
