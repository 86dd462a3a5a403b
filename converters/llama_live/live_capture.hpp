#pragma once

#include <span>

#include "cachecard/writer.hpp"
#include "llama_live/live_context.hpp"

/// From a running context to a card.
namespace cachecard::llama_live {

struct LiveCaptureOptions {
  /// Of the sequence, in position order: libllama does not keep them. Empty: the card's tokens are unknown,
  /// and no runtime takes it.
  std::span<const std::int32_t> token_ids;
  CardOptions card;  ///< its provenance is filled in
};

/// Writes what a sequence holds as a card. The context is read, never changed; memory: the state, once.
/// After llama_memory_seq_add or _div decode first: until then libllama gives new positions with old keys,
/// and nothing shows it. Errors: invalid_argument (an empty sequence, another number of tokens),
/// out_of_memory, target_unavailable, and those of state_source and write_card
Result<WriteReport> capture(const LiveContext& live, const llama_cpp::ModelFacts& facts,
                            llama_seq_id sequence, ByteSink& sink, const LiveCaptureOptions& options);

}  // namespace cachecard::llama_live
