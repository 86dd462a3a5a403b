#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cachecard/error.hpp"

/// A running llama-server over HTTP: what it is, what its slots hold, and the few things asked of it.
/// source: llama.cpp tools/server (v0.6.0), and what that server was seen to answer
namespace cachecard::llama_server {

struct ClientOptions {
  std::string url;      ///< http://host:port, with the server's path prefix if it has one
  std::string api_key;  ///< empty: none is sent
  std::chrono::milliseconds connect_timeout{3000};
  std::chrono::milliseconds read_timeout{600000};  ///< of calls that do not say their own
};

/// GET /props, the part that concerns a cache.
struct ServerFacts {
  std::string model_path;
  std::string build_info;
  std::string chat_template;
  std::string bos_token;
  std::uint32_t total_slots = 1;
  std::string instance;  ///< differs from one start of the server to the next; may be empty
};

/// One entry of GET /slots. A slot that never worked says neither task nor tokens, even if a
/// slot file was restored into it.
struct SlotInfo {
  std::uint32_t id = 0;
  std::uint64_t context = 0;  ///< tokens that it can hold
  bool busy = false;
  std::optional<std::int64_t> task;
  std::optional<std::uint64_t> tokens;
};

/// What save (n_saved, n_written) and restore (n_restored, n_read) answer.
struct SlotReply {
  std::uint64_t tokens = 0;
  std::uint64_t bytes = 0;
};

struct CompletionReply {
  std::string content;
  std::vector<std::int32_t> tokens;
  std::uint64_t cache_count = 0;   ///< prompt tokens that the slot already held (timings.cache_n)
  std::uint64_t prompt_count = 0;  ///< prompt tokens that were read (timings.prompt_n)
  double prompt_seconds = 0.0;
  std::chrono::steady_clock::time_point first_token;
};

/// One connection, kept alive. Not thread-safe.
/// Errors of every call: target_unavailable (nothing listens, the connection broke, HTTP status),
/// target_busy (no answer in time). Error::field names the call, "GET /props".
class ServerClient {
 public:
  /// Errors: invalid_argument (not an http URL). Connects at the first call.
  static Result<ServerClient> create(const ClientOptions& options);
  ServerClient(ServerClient&&) noexcept;
  ServerClient& operator=(ServerClient&&) noexcept;
  ~ServerClient();

  const std::string& url() const;
  /// Whether the last call got an answer of any status. Without one the server may have done what
  /// was asked, or be gone.
  bool answered() const;

  Result<ServerFacts> props();
  /// nullopt where the server does not show its slots.
  Result<std::optional<std::vector<SlotInfo>>> slots();
  /// "none" without adapters, else "name@scale" of each; nullopt where the server does not say.
  Result<std::optional<std::string>> adapters();

  /// Save and restore are answered when the slot is idle: timeout bounds that wait. After a timeout
  /// the server still does it, later.
  Result<SlotReply> save(std::uint32_t slot, const std::string& file_name, std::chrono::milliseconds timeout);
  Result<SlotReply> restore(std::uint32_t slot, const std::string& file_name,
                            std::chrono::milliseconds timeout);
  Status erase(std::uint32_t slot, std::chrono::milliseconds timeout);

  Result<std::vector<std::int32_t>> tokenize(std::string_view text, bool add_special);
  Result<std::string> detokenize(const std::vector<std::int32_t>& tokens);
  /// request: {"messages": [...], ...}; the prompt's text as the model's template writes it.
  Result<std::string> apply_template(const nlohmann::json& request);
  /// body: POST /completion's, always streamed. on_text may return false to stop (`interrupted`).
  Result<CompletionReply> completion(nlohmann::json body,
                                     const std::function<bool(std::string_view)>& on_text = {});

 private:
  struct State;
  explicit ServerClient(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace cachecard::llama_server
