#include "llama_server/prompt_input.hpp"

#include <algorithm>

namespace cachecard::llama_server {
namespace {

using nlohmann::json;
using Tokens = std::vector<std::int32_t>;

bool is_message_list(const json& value) {
  return value.is_array() && !value.empty() &&
         std::all_of(value.begin(), value.end(),
                     [](const json& message) { return message.is_object() && message.contains("role"); });
}

Result<Tokens> template_tokens(ServerClient& client, const json& request) {
  auto text = client.apply_template(request);
  if (!text) return text.error();
  return client.tokenize(*text, true);
}

/// source: llama.cpp server tokenize_mixed: ids as they are, only a first string gets the BOS
Result<Tokens> mixed_tokens(ServerClient& client, const json& parts) {
  Tokens tokens;
  bool first = true;
  for (const json& part : parts) {
    if (part.is_number_integer()) {
      tokens.push_back(part.get<std::int32_t>());
    } else if (part.is_string()) {
      auto more = client.tokenize(part.get<std::string>(), first);
      if (!more) return more.error();
      tokens.insert(tokens.end(), more->begin(), more->end());
    } else {
      return Error{ErrorCode::kInvalidArgument, kNoOffset, "prompt",
                   "an entry is neither a token id nor text"};
    }
    first = false;
  }
  return tokens;
}

}  // namespace

PromptInput parse_prompt(std::string_view text) {
  const std::size_t first = text.find_first_not_of(" \t\r\n");
  if (first != std::string_view::npos && (text[first] == '[' || text[first] == '{')) {
    json value = json::parse(text, nullptr, false);
    if (is_message_list(value)) return {PromptForm::kMessages, std::move(value)};
    if (value.is_object() && (value.contains("prompt") || value.contains("messages"))) {
      return {PromptForm::kBody, std::move(value)};
    }
  }
  return {PromptForm::kText, json(std::string(text))};
}

Result<Tokens> prompt_tokens(ServerClient& client, const PromptInput& prompt) {
  switch (prompt.form) {
    case PromptForm::kText:
      return client.tokenize(prompt.content.get<std::string>(), true);
    case PromptForm::kMessages:
      return template_tokens(client, {{"messages", prompt.content}});
    case PromptForm::kBody:
      break;
  }
  if (prompt.content.contains("messages")) return template_tokens(client, prompt.content);
  const json& given = prompt.content["prompt"];
  if (given.is_string()) return client.tokenize(given.get<std::string>(), true);
  if (given.is_array()) return mixed_tokens(client, given);
  return Error{ErrorCode::kInvalidArgument, kNoOffset, "prompt", "neither text nor token ids"};
}

std::uint64_t common_prefix(const Tokens& a, const Tokens& b) {
  const std::size_t shorter = std::min(a.size(), b.size());
  std::size_t count = 0;
  while (count < shorter && a[count] == b[count]) ++count;
  return count;
}

}  // namespace cachecard::llama_server
