#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "cachecard/edit.hpp"
#include "codec_flags.hpp"
#include "commands.hpp"
#include "context.hpp"
#include "input.hpp"
#include "output.hpp"
#include "output_file.hpp"
#include "size_flag.hpp"
#include "slice_flag.hpp"
#include "span_file.hpp"
#include "workers.hpp"

namespace cachecard::cli {
namespace {

struct TrimArgs {
  std::string input;
  std::string output;
  std::string tokens;
  std::string layers;
  std::string bits;
  std::uint64_t bytes = 0;
  std::string time;
};

Result<TrimOptions> trim_options(const TrimArgs& args) {
  if (args.tokens.empty() && args.layers.empty() && args.bits.empty()) {
    return usage_error("nothing to cut: give --tokens A:B, --layers A:B, --bits or --bytes");
  }
  auto tokens = parse_cut("--tokens", args.tokens);
  if (!tokens) return tokens.error();
  auto layers = parse_cut("--layers", args.layers);
  if (!layers) return layers.error();
  auto time = provenance_time(args.time);
  if (!time) return time.error();
  constexpr std::uint64_t kMost = ~std::uint32_t{0};
  TrimOptions options;
  options.first_token = tokens->first;
  options.end_token = tokens->end;
  options.first_layer = static_cast<std::uint32_t>(std::min(layers->first, kMost));
  if (layers->end) options.end_layer = static_cast<std::uint32_t>(std::min(*layers->end, kMost));
  options.time = *time;
  if (args.bits.empty()) return options;
  auto bits = parse_bits(args.bits);
  if (!bits) return bits.error();
  options.key_bits = bits->key;
  options.value_bits = bits->value;
  return options;
}

void report(const CardReader& card, const TrimReport& trimmed, const TrimArgs& args, const Context& context) {
  const WriteReport& written = trimmed.written;
  Facts facts;
  facts.add(context.dry_run ? "would write" : "card", output_name(args.output));
  facts.add("in", exact_bytes(card.trailer().file_size));
  facts.add("out", exact_bytes(written.file_size));
  facts.add("chunks",
            trimmed.coded_chunks != 0 ? fmt::format("{} coded anew, with larger steps", grouped(trimmed.coded_chunks))
                                      : fmt::format("{} copied, {} cut, {} with fewer planes", grouped(trimmed.copied_chunks),
                                                    grouped(trimmed.cut_chunks), grouped(trimmed.lowered_chunks)));
  facts.add("dropped", joined(trimmed.dropped));
  facts.add("bits per value", bits_text(bits_per_value(written.file_size, written.summary)));
  facts.add("root", to_hex(written.root));
  context.say(facts.text());
  context.say_json({{"output", args.output},
                    {"dry_run", context.dry_run},
                    {"input_bytes", card.trailer().file_size},
                    {"file_bytes", written.file_size},
                    {"copied_chunks", trimmed.copied_chunks},
                    {"cut_chunks", trimmed.cut_chunks},
                    {"lowered_chunks", trimmed.lowered_chunks},
                    {"coded_chunks", trimmed.coded_chunks},
                    {"encodes", trimmed.encodes},
                    {"dropped", trimmed.dropped},
                    {"value_count", written.summary.value_count},
                    {"bits_per_value", bits_json(bits_per_value(written.file_size, written.summary))},
                    {"root", to_hex(written.root)}});
}

/// Whether a card is kept by steps, not by planes.
bool is_entropy(const CardReader& card) { return (card.prologue().required_features & kFeatureEntropy) != 0; }

/// --bits or --bytes of an entropy card: its values get larger steps.
Result<TrimReport> lower(const CardReader& card, ByteSink& sink, const TrimArgs& args, const ParallelFor& parallel) {
  if (!args.tokens.empty() || !args.layers.empty()) {
    return usage_error("--bits and --bytes code an entropy card anew: cut --tokens and --layers by a trim of their own");
  }
  RequantiseOptions options;
  options.file_bytes = args.bytes;
  if (!args.bits.empty()) {
    const auto bits = number<double>(args.bits);
    if (!bits || !(*bits >= 0.05 && *bits <= 4096.0)) {
      return usage_error(fmt::format("--bits: found '{}', allowed for an entropy card is one number, 0.05 to 4096", args.bits));
    }
    options.bits = *bits;
  }
  auto time = provenance_time(args.time);
  if (!time) return time.error();
  options.time = *time;
  options.text = args.bytes != 0 ? fmt::format("cachecard trim: entropy {} bytes", args.bytes)
                                 : fmt::format("cachecard trim: entropy {} bits", args.bits);
  options.parallel = parallel;
  return requantise(card, sink, options);
}

std::string blame(const Error& error, const TrimArgs& args) {
  if (error.code == ErrorCode::kInvalidArgument) return "trim";
  return error.code == ErrorCode::kIo ? output_name(args.output) : input_name(args.input);
}

int run(const TrimArgs& args, Context& context) {
  context.data_on_stdout = args.output == "-" && !context.dry_run;
  auto input = open_input(args.input);
  if (!input) return context.fail(input.error(), input_name(args.input));
  auto card = CardReader::open(**input);
  if (!card) return context.fail(card.error(), input_name(args.input));
  const bool anew = is_entropy(*card) && (!args.bits.empty() || args.bytes != 0);
  if (args.bytes != 0 && !anew) return context.fail(usage_error("--bytes is for entropy cards: of planes --bits K,V drops some"), "trim");
  auto options = anew ? Result<TrimOptions>(TrimOptions{}) : trim_options(args);
  if (!options) return context.fail(options.error(), "trim");
  auto sink = open_output(args.output, context.dry_run);
  if (!sink) return context.fail(sink.error(), output_name(args.output));
  Workers workers(context.threads);
  options->parallel = workers.parallel();
  auto trimmed = anew ? lower(*card, **sink, args, workers.parallel()) : trim(*card, **sink, *options);
  if (!trimmed) return context.fail(trimmed.error(), blame(trimmed.error(), args));
  if (Status s = (*sink)->commit(); !s) return context.fail(s.error(), output_name(args.output));
  report(*card, *trimmed, args, context);
  return 0;
}

}  // namespace

void add_trim(CLI::App& app, Context& context) {
  auto args = std::make_shared<TrimArgs>();
  CLI::App& command = *app.add_subcommand("trim", "Keep a card's tokens A to B, its layers, its upper bit planes, or fewer bits of all values");
  command.add_option("IN", args->input, "Card, - for standard input")->required();
  command.add_option("OUT", args->output, "Card, - for standard output")->required();
  command.add_option("--tokens", args->tokens, "Tokens to keep: A:B (B left out), A: or :B")
      ->type_name("A:B");
  command.add_option("--layers", args->layers, "Layers to keep: A:B (B left out), A: or :B")
      ->type_name("A:B");
  auto* bits = command.add_option("--bits", args->bits, "Bits a value: of planes 1 to 8 each, the planes beyond go; of entropy the mean over all, its values are coded anew")
      ->type_name("K,V|N");
  add_size_option(command, "--bytes", args->bytes, "The most that an entropy card may take, coded anew: 10M, 2.5MiB")->excludes(bits);
  add_time_option(command, args->time);
  add_dry_run_option(command, context);
  add_threads_option(command, context);
  add_common_options(command, context);
  command.callback([args, &context] { run(*args, context); });
}

}  // namespace cachecard::cli
