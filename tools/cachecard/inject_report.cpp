#include "inject_report.hpp"

#include <fmt/format.h>

#include "context.hpp"
#include "server_flags.hpp"

namespace cachecard::cli {
namespace {

using llama_server::FirstAnswer;
using llama_server::FirstRequest;
using llama_server::InjectReport;
using llama_server::Recovery;

Json match_json(const MatchReport& match) {
  Json fields = Json::array();
  for (const FieldVerdict& field : match.fields) {
    fields.push_back({{"field", field.field},
                      {"verdict", name_of(field.verdict)},
                      {"card", field.card_value},
                      {"target", field.target_value},
                      {"overridden", field.overridden}});
  }
  return fields;
}

Json ask_json(const FirstRequest& request, const FirstAnswer& answer, double since_start) {
  return {{"prompt_tokens", request.prompt_count},
          {"covered", request.covered},
          {"expected_reuse", answer.expected_reuse},
          {"cache_n", answer.reply.cache_count},
          {"prompt_n", answer.reply.prompt_count},
          {"read_again", answer.read_again},
          {"prompt_seconds", answer.reply.prompt_seconds},
          {"first_token_seconds", answer.seconds},
          {"first_token_since_start_seconds", since_start},
          {"tokens", answer.reply.tokens},
          {"content", answer.reply.content}};
}

std::string read_again_note(const FirstRequest& request, const FirstAnswer& answer) {
  return fmt::format("the server read {} of the {} covered tokens again (it reused {})",
                     grouped(answer.expected_reuse - answer.reply.cache_count), grouped(request.covered),
                     grouped(answer.reply.cache_count));
}

/// What a model said, line by line, without what would move a terminal.
std::string answer_text(std::string_view content) {
  std::string text;
  while (!content.empty()) {
    const std::size_t end = content.find('\n');
    text += "  " + printable(content.substr(0, end)) + "\n";
    if (end == std::string_view::npos) break;
    content.remove_prefix(end + 1);
  }
  return text;
}

std::string inject_text(const InjectOutcome& outcome) {
  const InjectReport& report = outcome.injected;
  Facts facts;
  facts.add("slot", fmt::format("{} of {}", outcome.slot, outcome.server));
  facts.add("restored", fmt::format("{} tokens", grouped(report.token_count)));
  facts.add("next position", std::to_string(report.next_position));
  facts.add("slot file", exact_bytes(report.file_size));
  facts.add("before", report.old_tokens == 0 ? std::string("empty") : grouped(report.old_tokens) + " tokens");
  facts.add("layout from", report.template_from);
  if (report.max_conversion_loss > 0.0) {
    facts.add("conversion loss", fmt::format("{:.3g} at most", report.max_conversion_loss));
  }
  facts.add("time", times_text(report.times));
  if (outcome.answer) {
    const FirstAnswer& answer = *outcome.answer;
    facts.add("request",
              fmt::format("{} tokens, {} covered by the card, {} reused, {} read",
                          grouped(outcome.request->prompt_count), grouped(outcome.request->covered),
                          grouped(answer.reply.cache_count), grouped(answer.reply.prompt_count)));
    facts.add("first token",
              fmt::format("{} after the request, {} after the start", milliseconds_text(answer.seconds),
                          milliseconds_text(outcome.first_token_seconds)));
  }
  std::string text = facts.text();
  if (outcome.answer) text += "\nanswer\n" + answer_text(outcome.answer->reply.content);
  return text;
}

std::string side_text(const llama_server::CoverWindow& side) {
  if (side.tokens.empty()) return "(ends here)";
  return fmt::format("\"{}\" {}", printable(side.text), fmt::join(side.tokens, " "));
}

}  // namespace

void note_refusals(const MatchReport& match, const Context& context) {
  for (const FieldVerdict& field : match.fields) {
    if (field.verdict < Verdict::kCompatibleWithLoss) continue;
    context.note(fmt::format(
        "identity.{} {}{}: card {}, server {}{}", field.field, name_of(field.verdict),
        field.overridden ? " (allowed)" : "", field.card_value, field.target_value,
        field.override_name.empty() || field.overridden ? "" : " (--allow " + field.override_name + ")"));
  }
}

void report_inject(const InjectOutcome& outcome, const Context& context) {
  const InjectReport& report = outcome.injected;
  context.say(inject_text(outcome));
  std::vector<std::string> notes = report.notes;
  if (outcome.answer && outcome.answer->read_again) {
    notes.push_back(read_again_note(*outcome.request, *outcome.answer));
  }
  for (const std::string& note : notes) context.note(note);
  if (!context.json) return;
  Json object = {{"server", outcome.server},
                 {"slot", outcome.slot},
                 {"token_count", report.token_count},
                 {"next_position", report.next_position},
                 {"state_bytes", report.file_size},
                 {"old_tokens", report.old_tokens},
                 {"template_from", report.template_from},
                 {"nonfinite_values", report.nonfinite_values},
                 {"max_conversion_loss", report.max_conversion_loss},
                 {"identity", match_json(outcome.match)},
                 {"notes", notes},
                 {"seconds", times_json(report.times)}};
  if (outcome.answer) {
    object["ask"] = ask_json(*outcome.request, *outcome.answer, outcome.first_token_seconds);
  }
  context.say_json(object);
}

void report_cover(const llama_server::PromptCover& cover, const Context& context) {
  Facts facts;
  facts.add("card", grouped(cover.card_count) + " tokens");
  facts.add("prompt", grouped(cover.prompt_count) + " tokens");
  facts.add("covered", fmt::format("{} tokens, {} of the prompt", grouped(cover.covered),
                                   percent(static_cast<double>(cover.covered),
                                           static_cast<double>(cover.prompt_count))));
  facts.add("cause", fmt::format("{}: {}", name_of(cover.cause), advice(cover.cause)));
  if (!cover.common.empty()) facts.add("both", fmt::format("...\"{}\"", printable(cover.common)));
  facts.add("then the card", side_text(cover.card));
  facts.add("then the prompt", side_text(cover.prompt));
  context.say(facts.text());
  context.say_json({{"card_tokens", cover.card_count},
                    {"prompt_tokens", cover.prompt_count},
                    {"covered", cover.covered},
                    {"cause", name_of(cover.cause)},
                    {"advice", advice(cover.cause)},
                    {"common_text", cover.common},
                    {"card", {{"tokens", cover.card.tokens}, {"text", cover.card.text}}},
                    {"prompt", {{"tokens", cover.prompt.tokens}, {"text", cover.prompt.text}}}});
}

void report_recover(const llama_server::RecoverReport& recovered, std::uint32_t slot,
                    const Context& context) {
  const std::string held =
      recovered.old_tokens == 0 ? std::string("nothing") : grouped(recovered.old_tokens) + " tokens";
  switch (recovered.outcome) {
    case Recovery::kNothing:
      context.say(fmt::format("slot {} has no unfinished injection\n", slot));
      break;
    case Recovery::kUntouched:
      context.say(fmt::format("slot {} was not changed: it holds {}\n", slot, held));
      break;
    case Recovery::kPutBack:
      context.say(fmt::format("slot {} was put back: it holds {}\n", slot, held));
      break;
    case Recovery::kLeft:
      context.say(fmt::format("slot {} was used since and is left alone\n", slot));
      if (!recovered.kept.empty()) {
        context.note(fmt::format("what it held before is kept as {}", recovered.kept));
      }
      break;
  }
  context.say_json({{"slot", slot},
                    {"outcome", name_of(recovered.outcome)},
                    {"step", recovered.step},
                    {"old_tokens", recovered.old_tokens},
                    {"kept", recovered.kept}});
}

}  // namespace cachecard::cli
