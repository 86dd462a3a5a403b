#pragma once

#include <vector>

#include "card_literals.hpp"
#include "state_writer.hpp"

namespace cachecard::llama_cpp {

/// A context checkpoint that llama-server appended to the slot file of a card: its window cache at
/// an earlier token, which it needs to go on from a sliding-window state.
struct SlotCheckpoint {
  std::int64_t token_count = 0;
  std::int32_t first_position = 0;
  std::int32_t last_position = 0;
  std::uint64_t literal_offset = 0;  ///< of its state in the card's literal bytes
  std::uint64_t size = 0;
};

/// Those of a card's source that a prefix of token_count tokens can use and that fit the target.
/// None where the source had none, was of another kind, or the target is no sliding pair.
/// Errors: the reader's
Result<std::vector<SlotCheckpoint>> usable_checkpoints(const CardReader& card, const StateTemplate& target,
                                                       std::uint64_t token_count);

}  // namespace cachecard::llama_cpp
