#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cachecard/card.hpp"
#include "llama_server/cover_cause.hpp"
#include "llama_server/prompt_input.hpp"

/// How much of a prompt a card saves: the commonest failure of every prefix cache, before it costs.
namespace cachecard::llama_server {

/// Tokens of one side around the first difference.
struct CoverWindow {
  std::vector<std::int32_t> tokens;
  std::string text;
};

struct PromptCover {
  std::uint64_t card_count = 0;
  std::uint64_t prompt_count = 0;
  std::uint64_t covered = 0;  ///< leading tokens of the prompt that the card holds
  CoverCause cause = CoverCause::kNone;
  std::string common;  ///< text of the last tokens before the difference
  CoverWindow card;    ///< what the card goes on with
  CoverWindow prompt;  ///< what the prompt goes on with
};

/// Tokenises the prompt as the server would and compares. Touches no slot.
/// same_template: whether card and server have the same chat template, where known.
/// Errors: invalid_argument, and the client's
Result<PromptCover> cover_prompt(ServerClient& client, const PromptInput& prompt,
                                 const std::vector<std::int32_t>& card_tokens,
                                 std::optional<bool> same_template);

}  // namespace cachecard::llama_server
