#pragma once

#include <optional>

#include "cachecard/match.hpp"
#include "llama_server/first_request.hpp"
#include "llama_server/inject.hpp"
#include "llama_server/prompt_cover.hpp"
#include "llama_server/recover.hpp"
#include "output.hpp"

/// What inject prints, as text and as JSON.
namespace cachecard::cli {

struct Context;

/// All that an injection has to tell.
struct InjectOutcome {
  std::string server;
  std::uint32_t slot = 0;
  MatchReport match;
  llama_server::InjectReport injected;
  std::optional<llama_server::FirstRequest> request;
  std::optional<llama_server::FirstAnswer> answer;
  double first_token_seconds = 0.0;  ///< from the command's start
};

void report_inject(const InjectOutcome& outcome, const Context& context);
void report_cover(const llama_server::PromptCover& cover, const Context& context);
void report_recover(const llama_server::RecoverReport& recovered, std::uint32_t slot, const Context& context);
/// A note for each field that speaks against the injection.
void note_refusals(const MatchReport& match, const Context& context);

}  // namespace cachecard::cli
