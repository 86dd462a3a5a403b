#pragma once

#include <string>
#include <vector>

#include "cachecard/reader.hpp"
#include "llama_server/slot_session.hpp"
#include "llama_server/step_time.hpp"
#include "output.hpp"

namespace CLI {
class App;
}

namespace cachecard::cli {

/// A slot of a running llama-server, as capture and inject take it.
struct ServerFlags {
  std::string url;
  std::uint32_t slot = 0;
  std::string slot_dir;
  double wait_seconds = 10.0;
  std::string api_key_file;
  std::string model;  ///< for a server whose model file is not readable here
};

/// --server, --slot, --slot-dir, --wait, --api-key-file, --model.
void add_server_options(CLI::App& command, ServerFlags& flags);

/// Errors: io (the key file), invalid_argument
Result<llama_server::ServerClient> connect(const ServerFlags& flags);
/// The slot, with this process's signals.
llama_server::SlotAccess slot_access(const ServerFlags& flags);

/// What to blame for an error of a command that stands between a card and a server.
std::string server_blame(const Error& error, const ServerFlags& flags, const std::string& card,
                         const std::string& command);

/// {"save": 0.012, ..., "total": 0.3}
Json times_json(const std::vector<llama_server::StepTime>& times);
/// "save 12.0 ms, ..., in all 300.1 ms"
std::string times_text(const std::vector<llama_server::StepTime>& times);
std::string milliseconds_text(double seconds);

}  // namespace cachecard::cli
