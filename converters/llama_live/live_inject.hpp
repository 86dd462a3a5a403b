#pragma once

#include <string>
#include <vector>

#include "cachecard/match.hpp"
#include "cachecard/reader.hpp"
#include "llama_live/live_sequence.hpp"

/// From a card into a running context: wholly, or not at all.
/// Identity, geometry and every byte of the card are checked, and the state is made in memory, before the
/// context is touched. libllama empties a sequence before it reads the new state; so an occupied one is kept
/// until the new one is in: in its cells, where another sequence is free to take the state first (a swap),
/// else as a copy that is put back.
namespace cachecard::llama_live {

struct LiveInjectOptions {
  std::uint64_t token_count = 0;    ///< prefix of the card; 0: all
  std::int64_t position_shift = 0;  ///< added to the card's positions; needs the card's RoPE table
  bool replace = false;             ///< an occupied sequence may be replaced
  bool allow_nonfinite = false;
  std::vector<std::string> allow;                      ///< overrides of match_identity
  std::uint64_t copy_limit_bytes = ~std::uint64_t{0};  ///< that the copy of an occupied sequence may take
  StateBlob* scratch =
      nullptr;  ///< where the state is made, for those who inject often; nullptr: memory of its own
  ParallelFor parallel;
  std::function<bool(std::uint64_t done, std::uint64_t total)> progress;
};

/// How an occupied sequence was kept until the new state was in.
enum class KeptBy : std::uint8_t { kNothingToKeep, kSwap, kCopy };

struct LiveInjectReport {
  std::uint64_t token_count = 0;
  std::int64_t next_position = 0;  ///< of the token to decode next; logits are not part of a card
  std::uint64_t replaced_positions = 0;
  KeptBy kept_by = KeptBy::kNothingToKeep;
  std::uint64_t state_bytes = 0;
  std::uint64_t nonfinite_values = 0;
  double max_conversion_loss = 0.0;
  std::vector<std::string> notes;  ///< what the user should know, one line each
  MatchReport match;
};

/// Makes a sequence hold the card's tokens. Decode the next token at next_position; where the card covers the
/// whole prompt, inject one token less. On an error the context's sequences are as they were. Two things only
/// the caller can know: no other thread works in the context, and an occupied sequence has no position shift
/// that is not yet decoded (its copy would be inconsistent). Errors: model_mismatch, identity_unknown,
/// geometry_mismatch and the rest of write_state; target_busy (occupied, and
///         not to be replaced), target_too_small, out_of_memory, interrupted, the reader's
Result<LiveInjectReport> inject(const CardReader& card, const LiveContext& live,
                                const llama_cpp::ModelFacts& facts, llama_seq_id sequence,
                                const LiveInjectOptions& options = {});

}  // namespace cachecard::llama_live
