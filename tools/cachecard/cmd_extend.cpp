#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <memory>

#include "cachecard/edit.hpp"
#include "commands.hpp"
#include "convert.hpp"
#include "extend_link.hpp"
#include "input.hpp"
#include "nonfinite_source.hpp"
#include "output.hpp"
#include "output_file.hpp"
#include "workers.hpp"

namespace cachecard::cli {
namespace {

/// input is STATE.
struct ExtendArgs : ConvertArgs {
  std::string base;
  bool check = false;
  std::vector<std::string> allow;
};

Result<OpenedSource> open_foreign(const ByteSource& input, const ExtendArgs& args, std::string& at_fault) {
  const Format* format = format_named(args.from);
  if (format == nullptr) {
    auto kind = kind_of(input);
    if (!kind) return kind.error();
    if (*kind == InputKind::kEmpty || *kind == InputKind::kUnknown) return unknown_input(*kind, input);
    if (*kind == InputKind::kCard) return usage("STATE is a card: give the cache of the runtime that went on from BASE");
    format = format_of(*kind);
  }
  auto opened = format->open(input, args, at_fault);
  if (opened && !opened->source) return usage("STATE holds a card as it was: give the cache of the runtime that went on from BASE");
  return opened;
}

/// The bits that flags did not give are BASE's.
void say_bits_of_base(std::string& provenance) {
  for (const std::string_view codec : {", planes ", ", entropy "}) {
    const std::size_t at = provenance.find(codec);
    const std::size_t end = at == std::string::npos ? at : provenance.find(" bits", at);
    if (end != std::string::npos) provenance.replace(at + codec.size(), end - at - codec.size(), "BASE's");
  }
}

/// BASE's codec and settings, where the flags do not say others.
Result<ExtendOptions> extend_options(const ExtendArgs& args, const CardReader& base, OpenedSource& opened,
                                     const ParallelFor& parallel, std::vector<std::string>& notes) {
  const CardOptions of_base = options_of_base(base);
  CodecFlags codec = args.codec;
  codec.model = args.model.model;
  if (!codec.link.empty() && !codec.codec.empty() && codec.codec != "entropy") return usage("--link: its card is entropy");
  if (codec.codec.empty() && of_base.planes) codec.codec = "planes";
  if (codec.codec.empty() && of_base.entropy) codec.codec = "entropy";
  // New tokens keep BASE's steps: by recency alone they would all count as the newest, and cost more than BASE's.
  if (codec.codec == "entropy" && codec.profile.empty() && !codec.has_weights()) codec.queries = "none";
  if (!codec.link.empty()) {
    codec.codec = "entropy";
    codec.budget_later = true;
  }
  const CardHeader& header = opened.source->header();
  ConvertArgs converted = args;
  converted.codec = codec;
  if (Status s = check_codec(header, converted); !s) return s.error();
  constexpr std::string_view kConvert = "cachecard convert";
  if (opened.provenance.starts_with(kConvert)) opened.provenance.replace(0, kConvert.size(), "cachecard extend");
  auto card = card_options(converted, opened);
  if (!card) return card.error();
  card->parallel = parallel;
  if (Status s = set_codec(codec, *opened.source, *card, notes); !s) return s.error();
  ExtendOptions options;
  options.card = *std::move(card);
  if (args.zstd_level == 0 && !args.split) options.card.compressor = of_base.compressor;
  if (!args.span_major) options.card.chunk_order = of_base.chunk_order;
  const bool same = options.card.planes.has_value() == of_base.planes.has_value() &&
                    options.card.entropy.has_value() == of_base.entropy.has_value();
  options.bits_of_base = same && args.codec.bits.empty() && args.codec.map.empty() && args.codec.layer_map.empty() &&
                         args.codec.sensitivity.empty();
  if (!codec.link.empty()) {
    if (Status s = fit_link(codec, base, *opened.source, options, notes); !s) return s.error();
  }
  if (options.bits_of_base) say_bits_of_base(options.card.provenance.text);
  options.check = args.check;
  options.allow = args.allow;
  return options;
}

std::string parting_text(const Parting& parting) {
  const bool ids = parting.base_id != parting.state_id;
  const bool positions = parting.base_position != parting.state_position;
  if (!ids && !positions) return fmt::format("token {}: other media", parting.token);
  return fmt::format("token {}: BASE has {}, STATE {}", parting.token,
                     ids ? fmt::format("id {}", parting.base_id) : fmt::format("position {}", parting.base_position),
                     ids ? fmt::format("id {}", parting.state_id) : fmt::format("position {}", parting.state_position));
}

Json parting_json(const std::optional<Parting>& parting) {
  if (!parting) return nullptr;
  return {{"token", parting->token},
          {"base_id", parting->base_id},
          {"state_id", parting->state_id},
          {"base_position", parting->base_position},
          {"state_position", parting->state_position}};
}

void report(const ExtendReport& extended, const CardReader& base, std::uint64_t nonfinite, const ExtendArgs& args,
            const Context& context) {
  const WriteReport& written = extended.written;
  for (const std::string& note : raw_chunk_notes(written)) context.note(note);
  if (nonfinite > 0) {
    context.note(fmt::format("{} values are NaN or infinite: the card keeps them, inject refuses them", grouped(nonfinite)));
  }
  if (extended.parting) {
    context.note(fmt::format("STATE leaves BASE at {}; {} tokens are kept (whole chunks), {} encoded again or new",
                             parting_text(*extended.parting), grouped(extended.kept_tokens), grouped(extended.encoded_tokens)));
  } else if (extended.encoded_tokens == 0) {
    context.note("STATE has no token beyond BASE's: the card only gains the hop");
  }
  const auto added = extended.added_values == 0
                         ? std::nullopt
                         : std::optional(8.0 * static_cast<double>(extended.added_bytes) / static_cast<double>(extended.added_values));
  Facts facts;
  facts.add(context.dry_run ? "would write" : "card", output_name(args.output));
  facts.add("tokens", fmt::format("{} kept, {} new", grouped(extended.kept_tokens), grouped(extended.encoded_tokens)));
  if (extended.parting) facts.add("parting", parting_text(*extended.parting));
  facts.add("base", exact_bytes(base.trailer().file_size));
  facts.add("out", exact_bytes(written.file_size));
  facts.add("chunks", fmt::format("{} copied", grouped(extended.copied_chunks)));
  facts.add("new segment", !added ? std::string("none")
                                  : fmt::format("{}, {} bits per value{}", exact_bytes(extended.added_bytes), bits_text(added),
                                                extended.shared_lanes ? ", lanes of BASE" : ""));
  facts.add("dropped", joined(extended.dropped));
  facts.add("bits per value", bits_text(bits_per_value(written.file_size, written.summary)));
  facts.add("root", to_hex(written.root));
  context.say(facts.text());
  Json overridden = Json::array();
  for (const FieldVerdict& field : extended.identity) {
    if (field.overridden) overridden.push_back(field.override_name);
  }
  context.say_json({{"output", args.output},
                    {"dry_run", context.dry_run},
                    {"kept_tokens", extended.kept_tokens},
                    {"encoded_tokens", extended.encoded_tokens},
                    {"parting", parting_json(extended.parting)},
                    {"checked", args.check},
                    {"overridden", overridden},
                    {"base_bytes", base.trailer().file_size},
                    {"file_bytes", written.file_size},
                    {"copied_chunks", extended.copied_chunks},
                    {"shared_lanes", extended.shared_lanes},
                    {"added_bytes", extended.added_bytes},
                    {"added_values", extended.added_values},
                    {"added_bits_per_value", bits_json(added)},
                    {"raw_chunks", written.raw_chunks.size()},
                    {"nonfinite_values", nonfinite},
                    {"dropped", extended.dropped},
                    {"value_count", written.summary.value_count},
                    {"bits_per_value", bits_json(bits_per_value(written.file_size, written.summary))},
                    {"root", to_hex(written.root)}});
}

/// Whose fault an error of extend_card is.
std::string blame(const Error& error, const ExtendArgs& args) {
  const int code = static_cast<int>(error.code);
  if (error.code == ErrorCode::kInvalidArgument) return args.command;
  if (error.code == ErrorCode::kIo) return output_name(args.output);
  const bool of_card = code < static_cast<int>(ErrorCode::kLimitExceeded) && error.code != ErrorCode::kNonFinite;
  return input_name(of_card ? args.base : args.input);
}

int run(const ExtendArgs& args, Context& context) {
  context.data_on_stdout = args.output == "-" && !context.dry_run;
  if (args.base == "-" && args.input == "-") return context.fail(usage("BASE and STATE cannot both be standard input"), args.command);
  auto base_input = open_input(args.base);
  if (!base_input) return context.fail(base_input.error(), input_name(args.base));
  auto base = CardReader::open(**base_input);
  if (!base) return context.fail(base.error(), input_name(args.base));
  auto input = open_input(args.input);
  if (!input) return context.fail(input.error(), input_name(args.input));
  std::string at_fault;
  auto opened = open_foreign(**input, args, at_fault);
  if (!opened) return context.fail(opened.error(), at_fault.empty() ? source_blame(opened.error(), args) : at_fault);
  Workers workers(context.threads);
  std::vector<std::string> notes;
  auto options = extend_options(args, *base, *opened, workers.parallel(), notes);
  if (!options) return context.fail(options.error(), args.command);
  context.detail(opened->detail);
  const auto start = std::chrono::steady_clock::now();
  auto sink = open_output(args.output, context.dry_run);
  if (!sink) return context.fail(sink.error(), output_name(args.output));
  options->card.progress = progress_line(context, "extend");
  const NonfiniteSource counted(*opened->source);
  const bool counts = !args.check && !options->card.planes && !options->card.entropy;  // others read rows more than once
  auto extended = extend_card(*base, counted, **sink, *options);
  options->card.progress = nullptr;
  if (!extended) {
    Error error = extended.error();
    if (error.field == "identity.adapters" && args.model.adapters.empty()) error.detail += "; --adapters says what STATE was made with";
    return context.fail(error, blame(error, args));
  }
  if (Status s = (*sink)->commit(); !s) return context.fail(s.error(), output_name(args.output));
  for (const std::string& note : notes) context.note(note);
  for (const std::string& note : opened->notes) context.note(note);
  context.detail_speed(start, base->trailer().file_size);
  report(*extended, *base, counts ? counted.nonfinite_values() : 0, args, context);
  return 0;
}

}  // namespace

void add_extend(CLI::App& app, Context& context) {
  auto args = std::make_shared<ExtendArgs>();
  args->command = "extend";
  CLI::App& command = *app.add_subcommand("extend", "Add to a card what a cache that went on from it holds beyond it: the next hop");
  command.add_option("BASE", args->base, "Card, - for standard input")->required();
  command.add_option("STATE", args->input, "Cache that begins with BASE's tokens, - for standard input")->required();
  command.add_option("-o,--output", args->output, "Card, - for standard output; may be BASE")->required()->type_name("NEW");
  command.add_option("--from", args->from, "Format of STATE (default: told by content)")
      ->check(CLI::IsMember(format_names()))
      ->type_name("FORMAT");
  command.add_flag("--check", args->check,
                   "Compare STATE's values of BASE's tokens with BASE's, within what its codec may be off");
  command.add_option("--allow", args->allow, "Accept a difference by name (`cachecard codecs` lists them)")->type_name("NAME");
  add_card_options(command, *args);
  command.add_option("--layout", args->layout, "State layout, 10/3 or 11/4 (of a memory blob)")
      ->check(CLI::IsMember({"10/3", "11/4"}))
      ->type_name("LAYOUT");
  add_torch_options(command, args->torch);
  add_dry_run_option(command, context);
  add_threads_option(command, context);
  add_common_options(command, context);
  command.callback([args, &context] { run(*args, context); });
}

}  // namespace cachecard::cli
