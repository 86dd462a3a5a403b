#include "llama_server/first_request.hpp"

#include <algorithm>

namespace cachecard::llama_server {
namespace {

using nlohmann::json;
using Tokens = std::vector<std::int32_t>;

Result<Tokens> whole_prompt(ServerClient& client, const PromptInput& prompt, const Tokens& card_tokens) {
  if (prompt.form != PromptForm::kText) return prompt_tokens(client, prompt);
  Tokens tokens = card_tokens;
  const std::string text = prompt.content.get<std::string>();
  if (text.empty()) return tokens;
  auto more = client.tokenize(text, false);
  if (!more) return more.error();
  tokens.insert(tokens.end(), more->begin(), more->end());
  return tokens;
}

}  // namespace

Result<FirstRequest> first_request(ServerClient& client, const PromptInput& prompt, const Tokens& card_tokens,
                                   const FirstRequestOptions& options) {
  auto tokens = whole_prompt(client, prompt, card_tokens);
  if (!tokens) return tokens.error();
  if (tokens->empty()) {
    return Error{ErrorCode::kInvalidArgument, kNoOffset, "prompt", "it has no tokens"};
  }
  FirstRequest request;
  request.prompt_count = tokens->size();
  request.covered = common_prefix(card_tokens, *tokens);
  if (prompt.form == PromptForm::kBody) {
    request.body = prompt.content;
    request.body.erase("messages");
  } else {
    request.body["temperature"] = 0.0;
  }
  request.body["prompt"] = std::move(*tokens);
  request.body["id_slot"] = options.slot;
  request.body["cache_prompt"] = true;
  if (options.predict_count) {
    request.body["n_predict"] = *options.predict_count;
  } else if (!request.body.contains("n_predict") && !request.body.contains("max_tokens")) {
    request.body["n_predict"] = kDefaultPredictCount;
  }
  return request;
}

Result<FirstAnswer> send_first_request(ServerClient& client, const FirstRequest& request,
                                       const std::function<bool(std::string_view)>& on_text) {
  const auto sent = std::chrono::steady_clock::now();
  auto reply = client.completion(request.body, on_text);
  if (!reply) return reply.error();
  FirstAnswer answer;
  answer.seconds = std::chrono::duration<double>(reply->first_token - sent).count();
  answer.reply = std::move(*reply);
  answer.expected_reuse = std::min(request.covered, request.prompt_count - 1);
  answer.read_again = answer.reply.cache_count < answer.expected_reuse;
  return answer;
}

}  // namespace cachecard::llama_server
