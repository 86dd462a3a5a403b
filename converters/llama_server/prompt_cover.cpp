#include "llama_server/prompt_cover.hpp"

#include <algorithm>

namespace cachecard::llama_server {
namespace {

using Tokens = std::vector<std::int32_t>;

constexpr std::uint64_t kWindowTokens = 10;

Tokens slice(const Tokens& tokens, std::uint64_t first, std::uint64_t count) {
  const auto size = static_cast<std::uint64_t>(tokens.size());
  const std::uint64_t begin = std::min(first, size);
  const std::uint64_t end = std::min(begin + count, size);
  return Tokens(tokens.begin() + static_cast<std::ptrdiff_t>(begin),
                tokens.begin() + static_cast<std::ptrdiff_t>(end));
}

Result<std::string> text_of_tokens(ServerClient& client, const Tokens& tokens) {
  if (tokens.empty()) return std::string();
  return client.detokenize(tokens);
}

Result<CoverWindow> window(ServerClient& client, const Tokens& tokens, std::uint64_t first) {
  CoverWindow around;
  around.tokens = slice(tokens, first, kWindowTokens);
  auto text = text_of_tokens(client, around.tokens);
  if (!text) return text.error();
  around.text = std::move(*text);
  return around;
}

Result<CoverCause> find_cause(ServerClient& client, const Tokens& card, const Tokens& prompt,
                              std::uint64_t covered, std::optional<bool> same_template) {
  auto card_text = text_of_tokens(client, card);
  if (!card_text) return card_text.error();
  auto prompt_text = text_of_tokens(client, prompt);
  if (!prompt_text) return prompt_text.error();
  auto common = text_of_tokens(client, slice(card, 0, covered));
  if (!common) return common.error();
  return likely_cause({card, prompt, *card_text, *prompt_text, common->size(), same_template});
}

}  // namespace

Result<PromptCover> cover_prompt(ServerClient& client, const PromptInput& prompt, const Tokens& card_tokens,
                                 std::optional<bool> same_template) {
  auto tokens = prompt_tokens(client, prompt);
  if (!tokens) return tokens.error();
  PromptCover cover;
  cover.card_count = card_tokens.size();
  cover.prompt_count = tokens->size();
  cover.covered = common_prefix(card_tokens, *tokens);
  auto cause = find_cause(client, card_tokens, *tokens, cover.covered, same_template);
  if (!cause) return cause.error();
  cover.cause = *cause;
  const std::uint64_t before = cover.covered - std::min(cover.covered, kWindowTokens);
  auto common = text_of_tokens(client, slice(card_tokens, before, cover.covered - before));
  if (!common) return common.error();
  cover.common = std::move(*common);
  auto card = window(client, card_tokens, cover.covered);
  if (!card) return card.error();
  cover.card = std::move(*card);
  auto rest = window(client, *tokens, cover.covered);
  if (!rest) return rest.error();
  cover.prompt = std::move(*rest);
  return cover;
}

}  // namespace cachecard::llama_server
