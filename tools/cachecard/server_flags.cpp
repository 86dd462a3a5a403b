#include "server_flags.hpp"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>

#include "context.hpp"
#include "input.hpp"

namespace cachecard::cli {
namespace {

constexpr std::size_t kMostKeyBytes = 4096;

/// The first line of the file, without white space around it.
Result<std::string> read_key(const std::string& path) {
  if (path.empty()) return std::string();
  auto stream = open_input_stream(path);
  if (!stream) return stream.error();
  std::string text(kMostKeyBytes, '\0');
  auto size = read_up_to(**stream, std::as_writable_bytes(std::span(text)));
  if (!size) return size.error();
  text.resize(*size);
  text = text.substr(0, text.find('\n'));
  const std::size_t first = text.find_first_not_of(" \t\r");
  if (first == std::string::npos) {
    return Error{ErrorCode::kInvalidArgument, kNoOffset, "api-key-file", "its first line is empty"};
  }
  return text.substr(first, text.find_last_not_of(" \t\r") - first + 1);
}

bool is_about_the_card(ErrorCode code) {
  const auto number = static_cast<int>(code);
  return (number >= 10 && number < 40) || (number >= 50 && number < 60);
}

}  // namespace

void add_server_options(CLI::App& command, ServerFlags& flags) {
  command.add_option("--server", flags.url, "The llama-server, http://host:port")->type_name("URL");
  command.add_option("--slot", flags.slot, "Number of the slot (default: 0)")->type_name("N");
  command.add_option("--slot-dir", flags.slot_dir, "The server's --slot-save-path, as seen from here")
      ->type_name("DIR");
  command
      .add_option("--wait", flags.wait_seconds, "How long to wait for a busy slot, in seconds (default: 10)")
      ->check(CLI::Range(0.0, 1e6))
      ->type_name("S");
  command.add_option("--api-key-file", flags.api_key_file, "File whose first line is the API key")
      ->type_name("FILE");
  command
      .add_option("--model", flags.model,
                  "The server's GGUF file, where the path that it names is not readable here")
      ->type_name("GGUF");
}

Result<llama_server::ServerClient> connect(const ServerFlags& flags) {
  auto key = read_key(flags.api_key_file);
  if (!key) return key.error();
  llama_server::ClientOptions options;
  options.url = flags.url.find("://") == std::string::npos ? "http://" + flags.url : flags.url;
  options.api_key = std::move(*key);
  return llama_server::ServerClient::create(options);
}

llama_server::SlotAccess slot_access(const ServerFlags& flags) {
  llama_server::SlotAccess access;
  access.slot = flags.slot;
  access.folder = flags.slot_dir;
  access.wait = std::chrono::milliseconds(static_cast<std::int64_t>(flags.wait_seconds * 1000.0));
  access.interrupted = interrupted;
  return access;
}

std::string server_blame(const Error& error, const ServerFlags& flags, const std::string& card,
                         const std::string& command) {
  if (error.code == ErrorCode::kInvalidArgument || error.code == ErrorCode::kInterrupted) {
    return command;
  }
  if (is_about_the_card(error.code)) return card;
  return error.code == ErrorCode::kIo ? flags.slot_dir : flags.url;
}

std::string milliseconds_text(double seconds) { return fmt::format("{:.1f} ms", seconds * 1e3); }

Json times_json(const std::vector<llama_server::StepTime>& times) {
  Json object = Json::object();
  double total = 0.0;
  for (const llama_server::StepTime& time : times) {
    object[time.step] = time.seconds;
    total += time.seconds;
  }
  object["total"] = total;
  return object;
}

std::string times_text(const std::vector<llama_server::StepTime>& times) {
  std::string text;
  double total = 0.0;
  for (const llama_server::StepTime& time : times) {
    text += fmt::format("{} {}, ", time.step, milliseconds_text(time.seconds));
    total += time.seconds;
  }
  return text + "in all " + milliseconds_text(total);
}

}  // namespace cachecard::cli
