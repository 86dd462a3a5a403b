#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "cachecard/error.hpp"

namespace CLI {
class App;
}

namespace cachecard::cli {

/// What every command shares: how to talk and how the process ends.
struct Context {
  bool json = false;
  bool quiet = false;
  int verbosity = 0;
  bool dry_run = false;
  unsigned threads = 0;         ///< 0: one per core, at most 8
  bool data_on_stdout = false;  ///< stdout carries a card or a state: reports go to stderr
  int exit_code = 0;

  /// One line on stderr, "cachecard: <what>: <error message>", or with --json one object where
  /// reports go: {"error": {"code", "exit_code", "what", "message", "offset", "field", "detail"}}.
  /// what: the file, server or option at fault. Returns the exit code, also kept in exit_code.
  int fail(const Error& error, std::string_view what);

  /// Text of a report, as it stands; nothing with -q or --json.
  void say(std::string_view text) const;
  /// The one JSON object of a command; nothing without --json.
  void say_json(const nlohmann::ordered_json& object) const;
  /// A line on stderr that the user should know, "cachecard: note: <line>"; nothing with -q.
  /// With --json too: stderr is for people.
  void note(std::string_view line) const;
  /// A line on stderr with -v.
  void detail(std::string_view line) const;
  /// How long a command's work took and how fast it was, with -v.
  void detail_speed(std::chrono::steady_clock::time_point start, std::uint64_t bytes) const;
};

/// --json, -q/--quiet, -v/--verbose.
void add_common_options(CLI::App& command, Context& context);
/// --dry-run.
void add_dry_run_option(CLI::App& command, Context& context);
/// --threads N.
void add_threads_option(CLI::App& command, Context& context);

/// --time SECONDS|now. Without it provenance has the time of SOURCE_DATE_EPOCH, or none.
void add_time_option(CLI::App& command, std::string& time);
/// Errors: invalid_argument
Result<std::optional<std::int64_t>> provenance_time(const std::string& time);

/// SIGINT and SIGTERM set a flag; a second one ends the process at once. Called once by main.
void catch_signals();
bool interrupted() noexcept;
Error interrupted_error();
/// Waits until fd can be read or written, or a signal came. Errors: interrupted, io
Status wait_readable(int fd);
Status wait_writable(int fd);

/// For the progress callbacks of the library: a line on stderr where that is a terminal (not with
/// -q), at most ten times a second, wiped when done; false once a signal came.
std::function<bool(std::uint64_t, std::uint64_t)> progress_line(const Context& context, std::string label);
/// The same of tokens, with the time left.
std::function<bool(std::uint64_t, std::uint64_t)> token_progress_line(const Context& context, std::string label);

/// Text without control characters and broken UTF-8: those bytes as \xNN.
std::string printable(std::string_view text);

}  // namespace cachecard::cli
