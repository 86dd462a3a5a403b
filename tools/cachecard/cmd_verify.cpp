#include <fmt/format.h>
#include <sys/stat.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <memory>

#include "commands.hpp"
#include "context.hpp"
#include "input.hpp"
#include "output.hpp"
#include "workers.hpp"

namespace cachecard::cli {
namespace {

struct VerifyArgs {
  std::string input;
  bool decode = false;
};

class ProgressVisitor final : public SequentialVisitor {
 public:
  ProgressVisitor(std::function<bool(std::uint64_t, std::uint64_t)> progress, std::uint64_t total)
      : progress_(std::move(progress)), total_(total) {}
  Status on_section(const FrameHeader& frame, std::span<const std::byte>) override {
    if (!progress_(frame.offset + frame.stored_size, total_)) {
      return Error{ErrorCode::kInterrupted, kNoOffset, {}, "stopped by a signal"};
    }
    return {};
  }

 private:
  std::function<bool(std::uint64_t, std::uint64_t)> progress_;
  std::uint64_t total_;
};

/// 0: not known, as of a pipe.
std::uint64_t size_of(const std::string& path) {
  struct stat info {};
  if (is_pipe(path) || ::stat(path.c_str(), &info) != 0) return 0;
  return static_cast<std::uint64_t>(info.st_size);
}

void report(const VerifyReport& verified, const VerifyArgs& args, const Context& context) {
  Facts facts;
  facts.add("ok", input_name(args.input));
  facts.add("root", to_hex(verified.trailer.root));
  facts.add("size", exact_bytes(verified.trailer.file_size));
  facts.add("frames", grouped(verified.trailer.frame_count));
  if (verified.skipped_sections > 0) {
    facts.add("skipped", fmt::format("{} optional sections that this reader does not know",
                                     grouped(verified.skipped_sections)));
  }
  facts.add("checked", args.decode ? "every byte, every value" : "every byte");
  context.say(facts.text());
  context.say_json({{"ok", true},
                    {"root", to_hex(verified.trailer.root)},
                    {"file_bytes", verified.trailer.file_size},
                    {"frame_count", verified.trailer.frame_count},
                    {"skipped_sections", verified.skipped_sections},
                    {"decoded", args.decode}});
}

int run(const VerifyArgs& args, Context& context) {
  auto stream = open_input_stream(args.input);
  if (!stream) return context.fail(stream.error(), input_name(args.input));
  Workers workers(context.threads);
  VerifyOptions options;
  options.decode = args.decode;
  options.parallel = workers.parallel();
  auto progress = std::make_unique<ProgressVisitor>(progress_line(context, "verify"), size_of(args.input));
  const auto start = std::chrono::steady_clock::now();
  auto verified = verify(**stream, options, progress.get());
  progress.reset();
  if (!verified) return context.fail(verified.error(), input_name(args.input));
  context.detail_speed(start, verified->trailer.file_size);
  report(*verified, args, context);
  return 0;
}

}  // namespace

void add_verify(CLI::App& app, Context& context) {
  auto args = std::make_shared<VerifyArgs>();
  CLI::App& command = *app.add_subcommand("verify", "Prove that a card is whole");
  command.add_option("CARD", args->input, "Card, - for standard input")->required();
  command.add_flag("--decode", args->decode, "Also decode every chunk");
  add_threads_option(command, context);
  add_common_options(command, context);
  command.callback([args, &context] { run(*args, context); });
}

}  // namespace cachecard::cli
