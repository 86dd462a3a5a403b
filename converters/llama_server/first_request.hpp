#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "llama_server/prompt_input.hpp"

namespace cachecard::llama_server {

/// The first request to a slot that just got a card, sent by the injector itself.
struct FirstRequest {
  nlohmann::json body;             ///< of POST /completion
  std::uint64_t prompt_count = 0;  ///< tokens of the whole prompt
  std::uint64_t covered = 0;       ///< leading ones that the card holds
};

struct FirstRequestOptions {
  std::uint32_t slot = 0;
  std::optional<std::int64_t> predict_count;  ///< else the body's, else kDefaultPredictCount
};
inline constexpr std::int64_t kDefaultPredictCount = 64;

/// Text goes on from the card's last token: the prompt is the card's token ids, then the text's.
/// Messages and completion bodies are whole prompts. Text and messages are answered greedily; a
/// body keeps its own settings.
/// Errors: invalid_argument, and the client's
Result<FirstRequest> first_request(ServerClient& client, const PromptInput& prompt,
                                   const std::vector<std::int32_t>& card_tokens,
                                   const FirstRequestOptions& options);

struct FirstAnswer {
  CompletionReply reply;
  std::uint64_t expected_reuse = 0;  ///< min(covered, prompt - 1)
  bool read_again = false;           ///< the slot gave less than that
  double seconds = 0.0;              ///< from sending to the first token
};

/// Errors: interrupted (on_text returned false), and the client's
Result<FirstAnswer> send_first_request(ServerClient& client, const FirstRequest& request,
                                       const std::function<bool(std::string_view)>& on_text = {});

}  // namespace cachecard::llama_server
