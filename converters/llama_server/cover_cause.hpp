#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace cachecard::llama_server {

/// Why a prompt leaves a card's tokens.
enum class CoverCause : std::uint8_t {
  kNone,              ///< it does not: the card is covered to its end
  kPromptEnds,        ///< the prompt is a prefix of the card
  kBos,               ///< one has a token before the text that the other lacks
  kTokenBoundary,     ///< the same text, cut into other tokens
  kStrippedThinking,  ///< one has a thinking block that the other lacks
  kTemplate,          ///< message frames differ, or the chat templates do
  kText,              ///< the texts differ
};
std::string_view name_of(CoverCause cause) noexcept;

/// What is known of both sides. Texts are those of all tokens.
struct CoverSides {
  const std::vector<std::int32_t>& card;
  const std::vector<std::int32_t>& prompt;
  std::string_view card_text;
  std::string_view prompt_text;
  std::uint64_t covered_bytes = 0;  ///< text of the common tokens
  std::optional<bool> same_template;
};

/// The likeliest cause, by rules in the order of CoverCause.
CoverCause likely_cause(const CoverSides& sides);

/// One sentence on what to do about it.
std::string_view advice(CoverCause cause) noexcept;

/// Text without thinking blocks (and white space after them); one that is not closed goes to the end.
std::string without_thinking(std::string_view text);

}  // namespace cachecard::llama_server
