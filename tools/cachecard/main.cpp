#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <string_view>

#include "cachecard/types.hpp"
#include "commands.hpp"
#include "context.hpp"

namespace {

using cachecard::Error;
using cachecard::ErrorCode;
using cachecard::cli::Context;

void add_commands(CLI::App& app, Context& context) {
  using namespace cachecard::cli;
  add_convert(app, context);
  add_inspect(app, context);
  add_verify(app, context);
  add_capture(app, context);
  add_inject(app, context);
  add_extend(app, context);
  add_trim(app, context);
  add_diff(app, context);
  add_plan(app, context);
  add_calibrate(app, context);
  add_codecs(app, context);
}

/// Help without what CLI11 says of types and ranges: names and one line each.
class PlainFormatter final : public CLI::Formatter {
 public:
  PlainFormatter() { column_width(28); }
  std::string make_option_opts(const CLI::Option* option) const override {
    if (option->get_type_size() == 0 || option->get_positional()) return "";
    const std::string name = option->get_type_name();
    return " " + name.substr(0, name.find(':'));
  }
  std::string make_option_name(const CLI::Option* option, bool is_positional) const override {
    const std::string name = CLI::Formatter::make_option_name(option, is_positional);
    return name.substr(0, name.find('{'));  // the value that a flag stands for
  }
};

void describe(CLI::App& app) {
  app.require_subcommand(1);
  app.set_version_flag("--version", fmt::format("cachecard, card format {}.{}", cachecard::kFormatMajor,
                                                cachecard::kFormatMinor));
  app.footer(
      "Exit codes: 0 ok, 1 internal, 2 usage, 3 io or target, 4 not understood, 5 damaged,\n"
      "6 another model or geometry, 7 limit, 8 codec, 9 differences, 130 interrupted.\n"
      "`cachecard codecs --errors` has them all.");
}

/// CLI11's own codes (100 to 127) are all usage.
int parse_error(const CLI::App& app, const CLI::ParseError& error, Context& context, int argc, char** argv) {
  if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
  for (int i = 1; i < argc; ++i) context.json |= std::string_view(argv[i]) == "--json";
  std::string detail = error.what();
  detail.erase(detail.find_last_not_of(" \n") + 1);
  const auto& chosen = app.get_subcommands();
  const std::string command = chosen.empty() ? "" : chosen.front()->get_name() + " ";
  return context.fail({ErrorCode::kInvalidArgument,
                       cachecard::kNoOffset,
                       {},
                       fmt::format("{} (see cachecard {}--help)", detail, command)},
                      chosen.empty() ? "usage" : chosen.front()->get_name());
}

int run(int argc, char** argv, Context& context) {
  CLI::App app{"CacheCard carries an LLM's KV cache between runtimes.", "cachecard"};
  app.formatter(std::make_shared<PlainFormatter>());
  add_commands(app, context);
  describe(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return parse_error(app, error, context, argc, argv);
  }
  return context.exit_code;
}

/// A report that did not reach its reader is an error, unless the reader went away (head, less).
int flush_report(Context& context, int exit_code) {
  errno = 0;
  if ((std::fflush(stdout) == 0 && std::ferror(stdout) == 0) || errno == EPIPE) return exit_code;
  return context.fail({ErrorCode::kIo, cachecard::kNoOffset, {}, std::strerror(errno)}, "standard output");
}

}  // namespace

int main(int argc, char** argv) {
  Context context;
  cachecard::cli::catch_signals();
  try {
    return flush_report(context, run(argc, argv, context));
  } catch (const std::bad_alloc&) {
    return context.fail({ErrorCode::kOutOfMemory, cachecard::kNoOffset, {}, "no memory left"}, "cachecard");
  } catch (const std::exception& error) {
    return context.fail({ErrorCode::kInternal, cachecard::kNoOffset, {}, error.what()}, "cachecard");
  } catch (...) {
    return context.fail({ErrorCode::kInternal, cachecard::kNoOffset, {}, "unknown exception"}, "cachecard");
  }
}
