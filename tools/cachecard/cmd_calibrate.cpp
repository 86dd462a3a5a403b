#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <thread>

#include "cachecard/profile.hpp"
#include "commands.hpp"
#include "context.hpp"
#include "input.hpp"
#include "llama_part.hpp"
#include "model_flags.hpp"
#include "output.hpp"
#include "output_file.hpp"
#include "profile_file.hpp"
#include "slice_flag.hpp"
#include "workers.hpp"

namespace cachecard::cli {
namespace {

namespace fs = std::filesystem;
using llama_calibrate::Calibration;
using llama_calibrate::CalibrateOptions;
using llama_calibrate::CalibrateReport;
using llama_calibrate::CalibrationText;

constexpr std::uint64_t kMostTextBytes = 64u << 20;

struct CalibrateArgs {
  std::string model;
  std::string texts;
  std::string output;
  std::size_t most_texts = 0;
  std::string layers;
  std::string time;
  CalibrateOptions options;
};

Error usage_error(std::string detail) { return {ErrorCode::kInvalidArgument, kNoOffset, {}, std::move(detail)}; }

/// Where the F32 copy goes while it is in use: as UnlinkedFile does.
std::string scratch_folder() {
  const char* chosen = std::getenv("TMPDIR");
  if (chosen != nullptr && *chosen != '\0') return chosen;
  std::error_code failed;
  return fs::is_directory("/var/tmp", failed) ? "/var/tmp" : "/tmp";
}

/// The folder's .txt files, by name. Errors: io, invalid_argument (none)
Result<std::vector<CalibrationText>> read_texts(const CalibrateArgs& args) {
  std::error_code failed;
  std::vector<fs::path> paths;
  for (fs::directory_iterator at(args.texts, failed), end; !failed && at != end; at.increment(failed)) {
    if (at->path().extension() == ".txt") paths.push_back(at->path());
  }
  if (failed) return Error{ErrorCode::kIo, kNoOffset, {}, failed.message()};
  std::sort(paths.begin(), paths.end());
  if (paths.empty()) return usage_error("a folder without a .txt file");
  if (args.most_texts != 0 && paths.size() > args.most_texts) paths.resize(args.most_texts);
  std::vector<CalibrationText> texts;
  for (const fs::path& path : paths) {
    auto source = open_input(path.string());
    if (!source) return source.error();
    const std::uint64_t size = (*source)->size();
    if (size > kMostTextBytes) {
      return Error{ErrorCode::kLimitExceeded, kNoOffset, {},
                   fmt::format("{}: found {} bytes, allowed {}", path.filename().string(), size, kMostTextBytes)};
    }
    texts.push_back({path.filename().string(), std::string(size, '\0')});
    const auto bytes = std::as_writable_bytes(std::span(texts.back().text));
    if (Status s = (*source)->read_at(0, bytes); !s) return s.error();
  }
  return texts;
}

/// Names texts and numbers, so that the profile can be made again.
std::string provenance_text(const CalibrateArgs& args, const std::vector<CalibrationText>& texts, const CalibrateReport& report) {
  std::string names;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    names += fmt::format("{}{} ({} tokens)", i == 0 ? "" : ", ", texts[i].name, report.text_tokens[i]);
  }
  return fmt::format("cachecard calibrate, card format {}.{}: queries of {} tokens in windows of {}; costs in {} of {} + {} tokens, step {}; {}; {}",
                     kFormatMajor, kFormatMinor, report.observed_tokens, args.options.window, report.cost_windows,
                     args.options.context, args.options.scored, args.options.step, args.options.own_weights ? "the model's own weights" : "F32 copy", names);
}

std::string nats(double value) { return fmt::format("{:.2g}", value); }

void report(const Calibration& made, const WriteReport& written, const std::vector<CalibrationText>& texts,
            const CalibrateArgs& args, const Context& context) {
  const CalibrateReport& found = made.report;
  Facts facts;
  facts.add("profile", output_name(args.output));
  facts.add("layers", grouped(made.profile.layers.size()));
  facts.add("texts", fmt::format("{} ({} tokens)", texts.size(), grouped(found.observed_tokens)));
  facts.add("out", exact_bytes(written.file_size));
  facts.add("queries explained", fmt::format("{} of their variance, on these texts", percent(found.explained, 1.0)));
  facts.add("disturbances", fmt::format("{} in each of {} windows: KL {} to {} nats, median {}; undisturbed {}", grouped(found.disturbances), found.cost_windows,
                                        nats(found.least), nats(found.most), nats(found.median), nats(found.undisturbed)));
  facts.add("time", fmt::format("{:.0f} s", found.seconds));
  facts.add("root", to_hex(written.root));
  context.say(facts.text());
  Json rows = Json::array();
  for (std::size_t i = 0; i < texts.size(); ++i) {
    rows.push_back({{"name", texts[i].name}, {"token_count", found.text_tokens[i]}});
  }
  context.say_json({{"output", args.output},
                    {"layer_count", made.profile.layers.size()},
                    {"texts", std::move(rows)},
                    {"observed_tokens", found.observed_tokens},
                    {"file_bytes", written.file_size},
                    {"queries_explained", found.explained},
                    {"cost_windows", found.cost_windows},
                    {"disturbances", found.disturbances},
                    {"divergence", {{"undisturbed", found.undisturbed}, {"least", found.least}, {"median", found.median}, {"most", found.most}}},
                    {"seconds", found.seconds},
                    {"root", to_hex(written.root)}});
}

Status set_options(CalibrateArgs& args, unsigned threads) {
  auto cut = parse_cut("--layers", args.layers);
  if (!cut) return cut.error();
  constexpr std::uint64_t kMost = ~std::uint32_t{0};
  args.options.first_layer = static_cast<std::uint32_t>(std::min(cut->first, kMost));
  args.options.end_layer = static_cast<std::uint32_t>(std::min(cut->end.value_or(kMost), kMost));
  // Costs follow in a shorter context than queries, where they take long enough.
  args.options.context = std::min(args.options.context, args.options.window - std::min(args.options.window, args.options.scored));
  args.options.model_path = args.model;
  args.options.digest_folder = digest_cache_folder();
  args.options.scratch_folder = scratch_folder();
  args.options.threads = threads != 0 ? threads : std::clamp(std::thread::hardware_concurrency(), 1u, 8u);
  return {};
}

int run(CalibrateArgs& args, Context& context) {
  context.data_on_stdout = args.output == "-" && !context.dry_run;
  auto time = provenance_time(args.time);
  if (!time) return context.fail(time.error(), "calibrate");
  if (Status s = set_options(args, context.threads); !s) return context.fail(s.error(), "calibrate");
  auto texts = read_texts(args);
  if (!texts) return context.fail(texts.error(), args.texts);
  auto module = llama_module();
  if (!module) return context.fail(module.error(), "calibrate");
  auto sink = open_output(args.output, context.dry_run);
  if (!sink) return context.fail(sink.error(), output_name(args.output));
  Workers workers(args.options.threads);
  args.options.parallel = workers.parallel();
  args.options.progress = token_progress_line(context, "calibrate");
  args.options.detail = [&context](const std::string& line) { context.detail(line); };
  auto made = (*module)->run_calibrate(*texts, args.options);
  args.options.progress = nullptr;
  if (!made) {
    const ErrorCode code = made.error().code;
    return context.fail(made.error(), code == ErrorCode::kInvalidArgument || code == ErrorCode::kInterrupted ? "calibrate" : args.model);
  }
  const ProvenanceEntry provenance{0, ProvenanceOp::kCalibrate, time->value_or(0), {}, provenance_text(args, *texts, made->report)};
  auto written = write_profile(made->profile, provenance, **sink);
  if (!written) return context.fail(written.error(), output_name(args.output));
  if (Status s = (*sink)->commit(); !s) return context.fail(s.error(), output_name(args.output));
  report(*made, *written, *texts, args, context);
  return 0;
}

}  // namespace

void add_calibrate(CLI::App& app, Context& context) {
  auto args = std::make_shared<CalibrateArgs>();
  CLI::App& command = *app.add_subcommand("calibrate", "Measure a model once, for cards that put their bits where they count");
  command.add_option("--model", args->model, "GGUF file of the model")->required()->type_name("FILE");
  command.add_option("--text", args->texts, "Folder of .txt files, like what the model will read")->required()->type_name("DIR");
  command.add_option("-o,--output", args->output, "Profile to write, - for standard output")->required()->type_name("PROFILE");
  command.add_option("--texts", args->most_texts, "Use the first N texts only")->check(CLI::Range(1, 1000))->type_name("N");
  command.add_option("--context", args->options.window, "Tokens of a text that are read at once (default: 1300)")
      ->check(CLI::Range(128, 1 << 20))
      ->type_name("N");
  command.add_option("--cost-windows", args->options.cost_windows,
                     "Pieces of the texts in which costs are measured: nearly all of the time (default: 10)")
      ->check(CLI::Range(1, 1000))
      ->type_name("N");
  command.add_option("--layers", args->layers, "Layers to measure: A:B (B left out), A: or :B")->type_name("A:B");
  command.add_flag("--own-weights", args->options.own_weights,
                   "Make no F32 copy: for models too large for one; rounding of the weights then counts as cost");
  add_time_option(command, args->time);
  add_dry_run_option(command, context);
  add_threads_option(command, context);
  add_common_options(command, context);
  command.callback([args, &context] { run(*args, context); });
}

}  // namespace cachecard::cli
