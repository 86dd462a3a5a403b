#include "context.hpp"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <nlohmann/json.hpp>

#include "table.hpp"

namespace cachecard::cli {
namespace {

std::FILE* report_file(const Context& context) { return context.data_on_stdout ? stderr : stdout; }

void put(std::FILE* file, std::string_view text) { std::fwrite(text.data(), 1, text.size(), file); }

std::string dump(const nlohmann::ordered_json& object) {
  return object.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

nlohmann::ordered_json error_json(const Error& error, std::string_view what) {
  const ErrorInfo& info = error_info(error.code);
  nlohmann::ordered_json object = {
      {"code", info.name}, {"exit_code", info.exit_code}, {"what", what}, {"message", error.message()}};
  object["offset"] =
      error.offset == kNoOffset ? nlohmann::ordered_json(nullptr) : nlohmann::ordered_json(error.offset);
  object["field"] = error.field;
  object["detail"] = error.detail;
  return {{"error", object}};
}

/// Bytes that a UTF-8 character with this first byte has; 0: none starts so.
std::size_t utf8_size_by(unsigned char lead) {
  if (lead < 0x80) return 1;
  if (lead < 0xC2) return 0;
  if (lead < 0xE0) return 2;
  if (lead < 0xF0) return 3;
  return lead < 0xF5 ? 4 : 0;
}

/// Bytes of the well-formed UTF-8 character at the start of text; 0 where there is none.
/// Needs: text is not empty
std::size_t utf8_size(std::string_view text) {
  const auto at = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = at(0);
  const std::size_t size = utf8_size_by(lead);
  if (size == 0 || size > text.size()) return 0;
  for (std::size_t i = 1; i < size; ++i) {
    if ((at(i) & 0xC0) != 0x80) return 0;
  }
  if (lead == 0xE0 && at(1) < 0xA0) return 0;  // overlong
  if (lead == 0xED && at(1) > 0x9F) return 0;  // surrogates
  if (lead == 0xF0 && at(1) < 0x90) return 0;  // overlong
  if (lead == 0xF4 && at(1) > 0x8F) return 0;  // above U+10FFFF
  return size;
}

bool is_control(std::string_view character) {
  const auto lead = static_cast<unsigned char>(character[0]);
  if (character.size() == 1) return lead < 0x20 || lead == 0x7F;
  return lead == 0xC2 && static_cast<unsigned char>(character[1]) < 0xA0;  // C1
}

}  // namespace

int Context::fail(const Error& error, std::string_view what) {
  exit_code = error_info(error.code).exit_code;
  if (json) {
    put(report_file(*this), dump(error_json(error, what)));
  } else {
    put(stderr, fmt::format("cachecard: {}: {}\n", printable(what), printable(error.message())));
  }
  return exit_code;
}

void Context::say(std::string_view text) const {
  if (!quiet && !json) put(report_file(*this), text);
}

void Context::say_json(const nlohmann::ordered_json& object) const {
  if (json) put(report_file(*this), dump(object));
}

void Context::note(std::string_view line) const {
  if (!quiet) put(stderr, fmt::format("cachecard: note: {}\n", printable(line)));
}

void Context::detail(std::string_view line) const {
  if (verbosity > 0) put(stderr, fmt::format("cachecard: {}\n", printable(line)));
}

void Context::detail_speed(std::chrono::steady_clock::time_point start, std::uint64_t bytes) const {
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  const double rate = double(bytes) / std::max(took.count(), 1e-9);
  detail(fmt::format("{:.3f} s, {} a second", took.count(), human_bytes(static_cast<std::uint64_t>(rate))));
}

void add_common_options(CLI::App& command, Context& context) {
  command.add_flag("--json", context.json, "Print facts as JSON");
  command.add_flag("-q,--quiet", context.quiet, "Print errors only");
  command.add_flag("-v,--verbose", context.verbosity, "Say more on standard error");
}

void add_dry_run_option(CLI::App& command, Context& context) {
  command.add_flag("--dry-run", context.dry_run, "Say what would be done, change nothing");
}

void add_threads_option(CLI::App& command, Context& context) {
  command.add_option("--threads", context.threads, "Threads (default: one per core, at most 8)")
      ->check(CLI::Range(1, 256))
      ->type_name("N");
}

void add_time_option(CLI::App& command, std::string& time) {
  command
      .add_option("--time", time,
                  "Time in the provenance: seconds since 1970, or now (default: "
                  "SOURCE_DATE_EPOCH, else none)")
      ->type_name("TIME");
}

Result<std::optional<std::int64_t>> provenance_time(const std::string& time) {
  if (time == "now") return std::optional<std::int64_t>(std::time(nullptr));
  const char* epoch = std::getenv("SOURCE_DATE_EPOCH");
  const std::string_view text = !time.empty()      ? std::string_view(time)
                                : epoch != nullptr ? std::string_view(epoch)
                                                   : std::string_view();
  if (text.empty()) return std::optional<std::int64_t>();
  std::int64_t seconds = 0;
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), seconds);
  if (failed != std::errc{} || end != text.data() + text.size() || seconds < 0) {
    return Error{
        ErrorCode::kInvalidArgument,
        kNoOffset,
        {},
        fmt::format("{}: found '{}', allowed are seconds since 1970{}",
                    time.empty() ? "SOURCE_DATE_EPOCH" : "--time", text, time.empty() ? "" : " and now")};
  }
  return std::optional<std::int64_t>(seconds);
}

std::string printable(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const std::size_t whole = utf8_size(text);
    const std::string_view character = text.substr(0, std::max<std::size_t>(whole, 1));
    if (whole == 0 || is_control(character)) {
      for (char c : character) out += fmt::format("\\x{:02X}", static_cast<unsigned char>(c));
    } else {
      out += character;
    }
    text.remove_prefix(character.size());
  }
  return out;
}

}  // namespace cachecard::cli
