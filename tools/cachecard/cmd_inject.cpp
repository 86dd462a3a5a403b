#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <chrono>
#include <memory>

#include "cachecard/digest.hpp"
#include "commands.hpp"
#include "context.hpp"
#include "inject_report.hpp"
#include "input.hpp"
#include "llama_server/target_model.hpp"
#include "model_flags.hpp"
#include "server_flags.hpp"
#include "workers.hpp"

namespace cachecard::cli {
namespace {

using Clock = std::chrono::steady_clock;
using llama_server::ServerClient;
using llama_server::ServerFacts;

constexpr std::size_t kMostPromptBytes = std::size_t{64} << 20;

struct InjectArgs {
  ServerFlags server;
  std::string card;
  std::string like;
  std::string ask;
  std::string prompt;
  std::string tokens;
  std::optional<std::int64_t> predict_count;
  std::vector<std::string> allow;
  bool allow_nonfinite = false;
  bool recover = false;
};

Error usage_error(std::string detail) {
  return {ErrorCode::kInvalidArgument, kNoOffset, {}, std::move(detail)};
}

/// 0:K or :K; empty is everything, which is 0.
Result<std::uint64_t> parse_prefix(std::string_view text) {
  if (text.empty()) return std::uint64_t{0};
  const std::size_t colon = text.find(':');
  const std::string_view first = text.substr(0, colon);
  const std::string_view end = colon == std::string_view::npos ? "" : text.substr(colon + 1);
  std::uint64_t count = 0;
  const auto [stop, failed] = std::from_chars(end.data(), end.data() + end.size(), count);
  if ((first.empty() || first == "0") && failed == std::errc{} && stop == end.data() + end.size() &&
      count > 0) {
    return count;
  }
  return usage_error(fmt::format(
      "--tokens: found '{}', allowed is 0:K (what goes into a slot begins at the first token)", text));
}

Status check_args(const InjectArgs& args) {
  const bool injects = !args.recover && args.prompt.empty();
  if (args.recover && (!args.card.empty() || !args.ask.empty() || !args.prompt.empty())) {
    return usage_error("--recover stands alone: it undoes, and injects nothing");
  }
  if (!args.recover && args.card.empty()) return usage_error("CARD is required");
  if (!args.prompt.empty() && !args.ask.empty()) {
    return usage_error("--prompt only looks, --ask sends: give one of them");
  }
  if ((injects || args.recover) && args.server.slot_dir.empty()) {
    return usage_error("--slot-dir is required");
  }
  return {};
}

Result<std::string> read_text(const std::string& path) {
  auto stream = open_input_stream(path);
  if (!stream) return stream.error();
  std::string text;
  std::vector<std::byte> block(1 << 16);
  for (;;) {
    auto size = read_up_to(**stream, block);
    if (!size) return size.error();
    text.append(reinterpret_cast<const char*>(block.data()), *size);
    if (*size < block.size()) return text;
    if (text.size() > kMostPromptBytes) {
      return Error{ErrorCode::kLimitExceeded, kNoOffset, {}, "a prompt has at most 64 MiB"};
    }
  }
}

std::string blame(const Error& error, const InjectArgs& args) {
  return server_blame(error, args.server, input_name(args.card), "inject");
}

std::optional<bool> same_template(const CardReader& card, const ServerFacts& server) {
  const auto made_with = card.header().identity.digest(IdentityField::kTemplateDigest);
  if (!made_with || server.chat_template.empty()) return std::nullopt;
  return *made_with == digest128(std::as_bytes(std::span(server.chat_template)));
}

int run_prompt(const CardReader& card, ServerClient& client, const InjectArgs& args, Context& context) {
  auto text = read_text(args.prompt);
  if (!text) return context.fail(text.error(), input_name(args.prompt));
  auto server = client.props();
  if (!server) return context.fail(server.error(), args.server.url);
  auto tokens = card.token_ids();
  if (!tokens) return context.fail(tokens.error(), input_name(args.card));
  auto cover = llama_server::cover_prompt(client, llama_server::parse_prompt(*text), *tokens,
                                          same_template(card, *server));
  if (!cover) return context.fail(cover.error(), blame(cover.error(), args));
  report_cover(*cover, context);
  return 0;
}

int run_recover(ServerClient& client, const InjectArgs& args, Context& context) {
  auto server = client.props();
  if (!server) return context.fail(server.error(), args.server.url);
  // Only caches that are not plain need the model to be read; those fail by name without it.
  auto model = llama_server::target_model(client, *server, {args.server.model, digest_cache_folder()});
  auto recovered = llama_server::recover(client, slot_access(args.server), model ? &model->facts : nullptr);
  if (!recovered) return context.fail(recovered.error(), blame(recovered.error(), args));
  report_recover(*recovered, args.server.slot, context);
  return 0;
}

/// Sends --ask's request to the slot that just got the card.
Status ask(ServerClient& client, const std::string& text, const CardReader& card, const InjectArgs& args,
           InjectOutcome& outcome, Clock::time_point started) {
  auto tokens = card.token_ids();
  if (!tokens) return tokens.error();
  tokens->resize(static_cast<std::size_t>(outcome.injected.token_count));
  auto request = llama_server::first_request(client, llama_server::parse_prompt(text), *tokens,
                                             {args.server.slot, args.predict_count});
  if (!request) return request.error();
  auto answer =
      llama_server::send_first_request(client, *request, [](std::string_view) { return !interrupted(); });
  if (!answer) return answer.error();
  outcome.first_token_seconds = std::chrono::duration<double>(answer->reply.first_token - started).count();
  outcome.request = std::move(*request);
  outcome.answer = std::move(*answer);
  return {};
}

int rehearse(const CardReader& card, ServerClient& client, const llama_server::InjectOptions& options,
             const InjectArgs& args, Context& context) {
  auto report = llama_server::rehearse(card, client, options);
  if (!report) return context.fail(report.error(), blame(report.error(), args));
  context.say(fmt::format("would restore {} tokens into slot {}, which holds {}\n",
                          grouped(report->token_count), args.server.slot, grouped(report->old_tokens)));
  for (const std::string& note : report->notes) context.note(note);
  context.say_json({{"server", args.server.url},
                    {"slot", args.server.slot},
                    {"dry_run", true},
                    {"token_count", report->token_count},
                    {"old_tokens", report->old_tokens},
                    {"notes", report->notes}});
  return 0;
}

/// The server, its model, and the verdict on the card. Refusals end here, before anything changes.
Result<llama_server::TargetModel> match(const CardReader& card, ServerClient& client,
                                        const ServerFacts& server, const InjectArgs& args,
                                        InjectOutcome& outcome, const Context& context) {
  auto model = llama_server::target_model(client, server, {args.server.model, digest_cache_folder()});
  if (!model) return model.error();
  auto verdict = match_identity(card.header().identity, model->facts.identity, args.allow);
  if (!verdict) return verdict.error();
  note_refusals(*verdict, context);
  if (!verdict->accepted) return verdict->error;
  outcome.match = std::move(*verdict);
  return model;
}

int run_inject(const CardReader& card, ServerClient& client, const InjectArgs& args, Context& context,
               Clock::time_point started) {
  auto prefix = parse_prefix(args.tokens);
  if (!prefix) return context.fail(prefix.error(), "inject");
  std::string question;
  if (!args.ask.empty()) {
    auto text = read_text(args.ask);
    if (!text) return context.fail(text.error(), input_name(args.ask));
    question = std::move(*text);
  }
  auto server = client.props();
  if (!server) return context.fail(server.error(), args.server.url);
  InjectOutcome outcome;
  outcome.server = args.server.url;
  outcome.slot = args.server.slot;
  auto model = match(card, client, *server, args, outcome, context);
  if (!model) return context.fail(model.error(), blame(model.error(), args));
  llama_server::InjectOptions options;
  options.access = slot_access(args.server);
  options.token_count = *prefix;
  options.allow_nonfinite = args.allow_nonfinite;
  options.like = args.like;
  if (context.dry_run) return rehearse(card, client, options, args, context);
  Workers workers(context.threads);
  options.parallel = workers.parallel();
  options.progress = progress_line(context, "inject");
  auto injected = llama_server::inject(card, client, *server, model->facts, options);
  options.progress = nullptr;
  if (!injected) return context.fail(injected.error(), blame(injected.error(), args));
  outcome.injected = std::move(*injected);
  Status asked;
  if (!args.ask.empty()) asked = ask(client, question, card, args, outcome, started);
  if (asked) {
    report_inject(outcome, context);
    return 0;
  }
  context.note(fmt::format("slot {} holds the card's {} tokens; the request failed", args.server.slot,
                           grouped(outcome.injected.token_count)));
  return context.fail(asked.error(), blame(asked.error(), args));
}

int run(const InjectArgs& args, Context& context) {
  const auto started = Clock::now();
  if (Status s = check_args(args); !s) return context.fail(s.error(), "inject");
  auto client = connect(args.server);
  if (!client) return context.fail(client.error(), "inject");
  if (args.recover) return run_recover(*client, args, context);
  auto input = open_input(args.card);
  if (!input) return context.fail(input.error(), input_name(args.card));
  auto card = CardReader::open(**input);
  if (!card) return context.fail(card.error(), input_name(args.card));
  if (!args.prompt.empty()) return run_prompt(*card, *client, args, context);
  return run_inject(*card, *client, args, context, started);
}

}  // namespace

void add_inject(CLI::App& app, Context& context) {
  auto args = std::make_shared<InjectArgs>();
  CLI::App& command = *app.add_subcommand("inject", "Put a card into a slot of a running llama-server");
  command.add_option("CARD", args->card, "Card, - for standard input");
  add_server_options(command, args->server);
  command.get_option("--server")->required();
  command.add_option("--tokens", args->tokens, "Inject the first K tokens only")->type_name("0:K");
  command.add_option("--like", args->like, "A slot file of this server, which shows its layout")
      ->type_name("FILE");
  command.add_option("--allow", args->allow, "Accept a difference by name (`cachecard codecs` lists them)")
      ->type_name("NAME");
  command.add_flag("--allow-nonfinite", args->allow_nonfinite, "Inject NaN and infinite values");
  command
      .add_option("--ask", args->ask,
                  "Send the first request: text that goes on from the card, JSON messages, or "
                  "the JSON body of a completion; - for standard input")
      ->type_name("FILE");
  command.add_option("--n-predict", args->predict_count, "Tokens to generate for --ask")->type_name("N");
  command
      .add_option("--prompt", args->prompt,
                  "Inject nothing: say how much of this prompt the card covers, and why not more")
      ->type_name("FILE");
  command.add_flag("--recover", args->recover, "Undo an injection that was killed");
  add_dry_run_option(command, context);
  add_threads_option(command, context);
  add_common_options(command, context);
  command.callback([args, &context] { run(*args, context); });
}

}  // namespace cachecard::cli
