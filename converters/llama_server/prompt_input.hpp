#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string_view>
#include <vector>

#include "llama_server/server_client.hpp"

namespace cachecard::llama_server {

/// What a prompt file is, told by its content.
enum class PromptForm : std::uint8_t {
  kText,      ///< anything that is not one of the others
  kMessages,  ///< a JSON array of {"role", "content"}
  kBody,      ///< a JSON object with "prompt" or "messages": the body of a completion
};

struct PromptInput {
  PromptForm form = PromptForm::kText;
  nlohmann::json content;  ///< a string, an array or an object
};

PromptInput parse_prompt(std::string_view text);

/// Token ids of a whole prompt as llama-server would read it: messages through the model's
/// template, text with the tokens that the model puts before every text.
/// Errors: invalid_argument (a prompt of another shape), and the client's
Result<std::vector<std::int32_t>> prompt_tokens(ServerClient& client, const PromptInput& prompt);

/// How many leading tokens are the same.
std::uint64_t common_prefix(const std::vector<std::int32_t>& a, const std::vector<std::int32_t>& b);

}  // namespace cachecard::llama_server
