#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <memory>

#include "commands.hpp"
#include "context.hpp"
#include "input.hpp"
#include "llama_server/capture.hpp"
#include "llama_server/target_model.hpp"
#include "model_flags.hpp"
#include "output.hpp"
#include "output_file.hpp"
#include "codec_flags.hpp"
#include "server_flags.hpp"
#include "workers.hpp"

namespace cachecard::cli {
namespace {

using llama_server::CaptureOptions;
using llama_server::CaptureReport;

struct CaptureArgs {
  ServerFlags server;
  std::string output;
  CodecFlags codec;
  int zstd_level = 0;
  bool split = false;
  bool text = false;
  bool keep_slot_file = false;
  bool no_source_layout = false;
  std::string time;
};

/// lossy: set once the slot is seen.
Result<CaptureOptions> capture_options(const CaptureArgs& args, const std::string& build, const std::string& model,
                                       std::shared_ptr<bool> lossy) {
  auto time = provenance_time(args.time);
  if (!time) return time.error();
  CaptureOptions options;
  options.access = slot_access(args.server);
  options.text = args.text;
  options.keep_slot_file = args.keep_slot_file;
  if (args.split)
    options.card.compressor = Compressor::kSplitZstd;
  else if (args.zstd_level != 0)
    options.card.compressor = Compressor::kZstd;
  if (args.zstd_level != 0) options.card.zstd_level = args.zstd_level;
  CodecFlags codec = args.codec;
  codec.model = model;
  codec.entropy_unless_said = !args.split && args.zstd_level == 0;
  options.plan = [codec, lossy](const CacheSource& source, CardOptions& card, std::vector<std::string>& notes) -> Status {
    if (Status s = set_codec(codec, source, card, notes); !s) return s;
    *lossy = card.planes || card.entropy;
    return {};
  };
  options.card.source_layout = !args.no_source_layout;
  options.card.provenance.operation = ProvenanceOp::kCapture;
  options.card.provenance.time = time->value_or(0);
  options.card.provenance.text = "cachecard capture: slot of llama-server " + build;
  return options;
}

void report(const CaptureReport& captured, const CaptureArgs& args, bool lossy, const Context& context) {
  const WriteReport& written = captured.written;
  const auto bits = bits_per_value(written.file_size, written.summary);
  Facts facts;
  facts.add("card", output_name(args.output));
  facts.add("tokens", grouped(captured.token_count));
  facts.add("next position", std::to_string(captured.next_position));
  facts.add("slot file", exact_bytes(captured.state_size));
  facts.add("out", exact_bytes(written.file_size));
  facts.add("bits per value", bits_text(bits));
  if (written.summary.opaque_size > 0) {
    facts.add("opaque state", exact_bytes(written.summary.opaque_size));
  }
  facts.add("compared", lossy ? "every value decodes to what the server saved, within its step"
                                              : "every value decodes to what the server saved");
  if (!captured.slot_file.empty()) facts.add("kept", captured.slot_file);
  facts.add("time", times_text(captured.times));
  facts.add("root", to_hex(written.root));
  context.say(facts.text());
  for (const std::string& note : captured.notes) context.note(note);
  for (const std::string& note : raw_chunk_notes(written)) context.note(note);
  for (const std::string& note : unused_bits_notes(args.codec, bits)) context.note(note);
  context.say_json({{"output", args.output},
                    {"token_count", captured.token_count},
                    {"next_position", captured.next_position},
                    {"state_bytes", captured.state_size},
                    {"file_bytes", written.file_size},
                    {"value_count", written.summary.value_count},
                    {"opaque_bytes", written.summary.opaque_size},
                    {"bits_per_value", bits_json(bits)},
                    {"nonfinite_values", captured.nonfinite_values},
                    {"root", to_hex(written.root)},
                    {"slot_file", captured.slot_file},
                    {"notes", captured.notes},
                    {"raw_chunks", written.raw_chunks.size()},
                    {"seconds", times_json(captured.times)}});
}

/// What a capture would take, without having anything saved.
int rehearse(llama_server::ServerClient& client, const CaptureArgs& args, Context& context) {
  auto view = llama_server::wait_until_idle(client, slot_access(args.server));
  if (!view) return context.fail(view.error(), args.server.url);
  const std::uint64_t tokens = view->slot.tokens.value_or(0);
  context.say(fmt::format("would capture slot {}: {} tokens as far as the server says\n", args.server.slot,
                          grouped(tokens)));
  context.say_json({{"output", args.output}, {"dry_run", true}, {"token_count", tokens}});
  return 0;
}

int run(const CaptureArgs& args, Context& context) {
  context.data_on_stdout = args.output == "-" && !context.dry_run;
  const auto blame = [&](const Error& error) {
    return server_blame(error, args.server, fmt::format("slot {}", args.server.slot), "capture");
  };
  llama_server::StepClock clock;
  std::vector<llama_server::StepTime> times;
  auto client = connect(args.server);
  if (!client) return context.fail(client.error(), "capture");
  auto server = client->props();
  if (!server) return context.fail(server.error(), args.server.url);
  auto model = llama_server::target_model(*client, *server, {args.server.model, digest_cache_folder()});
  if (!model) return context.fail(model.error(), blame(model.error()));
  clock.lap("model", times);
  if (context.dry_run) return rehearse(*client, args, context);
  const auto lossy = std::make_shared<bool>(false);
  auto options = capture_options(args, server->build_info, model->path, lossy);
  if (!options) return context.fail(options.error(), "capture");
  auto sink = open_random_output(args.output, false);
  if (!sink) return context.fail(sink.error(), output_name(args.output));
  Workers workers(context.threads);
  options->card.parallel = workers.parallel();
  options->card.progress = progress_line(context, "capture");
  auto captured = llama_server::capture(*client, model->facts, **sink, *options);
  options->card.progress = nullptr;
  if (!captured) return context.fail(captured.error(), blame(captured.error()));
  captured->times.insert(captured->times.begin(), times.begin(), times.end());
  report(*captured, args, *lossy, context);
  return 0;
}

}  // namespace

void add_capture(CLI::App& app, Context& context) {
  auto args = std::make_shared<CaptureArgs>();
  CLI::App& command = *app.add_subcommand("capture", "Save a slot of a running llama-server as a card");
  command.add_option("OUT", args->output, "Card, - for standard output")->required();
  add_server_options(command, args->server);
  command.get_option("--server")->required();
  command.get_option("--slot-dir")->required();
  add_codec_options(command, args->codec, "Codec");
  command.add_flag("--zstd{3}", args->zstd_level, "Compress chunks; --zstd=LEVEL, 3 if not said")
      ->check(CLI::Range(1, 22));
  command.add_flag("--split", args->split, "Byte split before zstd, for f32, f16 and bf16");
  command.add_flag("--text", args->text, "Store the text of the tokens too");
  command.add_flag("--no-source-layout", args->no_source_layout,
                   "Leave out what gives the slot file back byte for byte");
  command.add_flag("--keep-slot-file", args->keep_slot_file,
                   "Leave what the server saved in the slot directory");
  add_time_option(command, args->time);
  add_dry_run_option(command, context);
  add_threads_option(command, context);
  add_common_options(command, context);
  command.callback([args, &context] { run(*args, context); });
}

}  // namespace cachecard::cli
