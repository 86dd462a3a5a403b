#include <fmt/format.h>

#include <chrono>

#include "convert.hpp"
#include "input.hpp"
#include "llama_cpp/card_facts.hpp"
#include "llama_cpp/state_writer.hpp"
#include "output.hpp"
#include "output_file.hpp"
#include "state_report.hpp"
#include "workers.hpp"

namespace cachecard::cli {
namespace {

using llama_cpp::StateLayout;
using llama_cpp::StateTemplate;
using llama_cpp::StateWriteOptions;
using llama_cpp::StateWriteReport;

bool asks_for_a_layout(const ConvertArgs& args) {
  return !args.layout.empty() || !args.container.empty() || !args.v_trans.empty() || args.server_tokens;
}

/// Versions of both kinds of container. source: llama.h LLAMA_SESSION_VERSION, LLAMA_STATE_SEQ_VERSION
std::optional<StateLayout> layout_of(const SourceLayout& source) {
  switch (source.record.container_version) {
    case 3:
    case 10:
      return StateLayout::k10_3;
    case 4:
    case 11:
      return StateLayout::k11_4;
    default:
      return std::nullopt;
  }
}

/// The flags' layout; what they leave out is as in the card's own source, else asked for.
Result<StateTemplate> chosen_template(const CardReader& card, const std::optional<SourceLayout>& source,
                                      const ConvertArgs& args) {
  auto layout = layout_by_name(args.layout);
  if (!layout && source) layout = layout_of(*source);
  if (!layout) return usage("the card does not say which layout: give --layout 10/3 or 11/4");
  auto container = container_by_name(args.container);
  if (!container && source) container = static_cast<LlamaContainer>(source->record.container);
  if (!container) {
    return usage("the card does not say which container: give --container " + joined(container_names()));
  }
  auto target = llama_cpp::template_for(card, *layout, *container);
  if (!target) return target.error();
  if (args.server_tokens) target->server_blob = true;
  if (const auto v_trans = yes_no(args.v_trans)) {
    for (StateTemplate::Cache& cache : target->caches) cache.v_trans = *v_trans;
  }
  return target;
}

/// What the state of --like shows. A quantised one of layout 10/3 needs --rotated.
Result<StateTemplate> like_template(const CardReader& card, const ConvertArgs& args) {
  const auto named = [&args](Error error) {
    error.detail = "--like " + args.like + ": " + error.detail;
    return error;
  };
  auto like = open_input(args.like);
  if (!like) return named(like.error());
  const llama_cpp::ModelFacts facts = llama_cpp::facts_of_card(card.header());
  llama_cpp::ParseOptions options;
  options.rotated = yes_no(args.rotated);
  auto state = llama_cpp::parse_state(**like, &facts, options);
  if (!state) return named(state.error());
  if (!state->rotation_known) {
    return usage(
        "--like: a quantised state of layout 10/3 does not say whether it is rotated: give --rotated yes or "
        "no");
  }
  auto target = llama_cpp::template_of(*state);
  if (!target) return named(target.error());
  if (args.server_tokens) target->server_blob = true;
  return target;
}

Result<StateWriteReport> write(const CardReader& card, const ConvertArgs& args, RandomSink& sink,
                               const StateWriteOptions& options) {
  auto source = card.source_layout();
  if (!source) return source.error();
  if (*source && args.like.empty() && !asks_for_a_layout(args)) {
    return llama_cpp::restore_source(card, sink, options);
  }
  auto target = args.like.empty() ? chosen_template(card, *source, args) : like_template(card, args);
  if (!target) return target.error();
  return llama_cpp::write_state(card, *target, sink, options);
}

void report(const CardReader& card, const StateWriteReport& written, const ConvertArgs& args,
            const Context& context) {
  for (const std::string& line : written.notes) context.note(line);
  if (written.nonfinite_values > 0) {
    context.note(fmt::format("{} values are NaN or infinite", grouped(written.nonfinite_values)));
  }
  Facts facts;
  facts.add(context.dry_run ? "would write" : "state", output_name(args.output));
  facts.add("tokens", grouped(written.token_count));
  facts.add("next position", std::to_string(written.next_position));
  facts.add("layers", grouped(card.header().layer_count));
  facts.add("in", exact_bytes(card.trailer().file_size));
  facts.add("out", exact_bytes(written.file_size));
  if (written.max_conversion_loss > 0) {
    facts.add("conversion loss", fmt::format("at most {:.3g} a value", written.max_conversion_loss));
  }
  context.say(facts.text());
  context.say_json({{"output", args.output},
                    {"dry_run", context.dry_run},
                    {"token_count", written.token_count},
                    {"next_position", written.next_position},
                    {"layer_count", card.header().layer_count},
                    {"input_bytes", card.trailer().file_size},
                    {"file_bytes", written.file_size},
                    {"nonfinite_values", written.nonfinite_values},
                    {"max_conversion_loss", written.max_conversion_loss},
                    {"notes", written.notes}});
}

bool is_usage(const Error& error) { return error.code == ErrorCode::kInvalidArgument; }

}  // namespace

int convert_to_state(const ByteSource& input, const ConvertArgs& args, Context& context) {
  auto card = CardReader::open(input);
  if (!card) return context.fail(card.error(), input_name(args.input));
  const auto start = std::chrono::steady_clock::now();
  auto sink = open_random_output(args.output, context.dry_run);
  if (!sink) return context.fail(sink.error(), output_name(args.output));
  Workers workers(context.threads);
  StateWriteOptions options;
  options.allow_nonfinite = true;  // a file may hold what a live cache must not
  options.parallel = workers.parallel();
  options.progress = progress_line(context, "convert");
  auto written = write(*card, args, **sink, options);
  options.progress = nullptr;
  if (!written) {
    const bool outside = written.error().code == ErrorCode::kIo;
    return context.fail(written.error(), is_usage(written.error()) ? "convert"
                                         : outside                 ? output_name(args.output)
                                                                   : input_name(args.input));
  }
  if (Status s = (*sink)->commit(); !s) return context.fail(s.error(), output_name(args.output));
  context.detail_speed(start, written->file_size);
  report(*card, *written, args, context);
  return 0;
}

}  // namespace cachecard::cli
