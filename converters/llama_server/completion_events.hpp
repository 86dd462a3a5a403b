#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "llama_server/server_client.hpp"
#include "llama_server/server_json.hpp"

namespace cachecard::llama_server {

/// The server-sent events of a streamed completion, as their bytes arrive.
class CompletionEvents {
 public:
  explicit CompletionEvents(std::function<bool(std::string_view)> on_text) : on_text_(std::move(on_text)) {}

  /// False once on_text stopped it, or for a line that never ends.
  bool take(std::string_view bytes);
  /// No more bytes will come: a body without a last line feed is read too.
  void finish() { take_line(buffer_); }

  bool ended() const { return ended_; }                   ///< the event with "stop": true came
  bool stopped() const { return stopped_; }               ///< by on_text
  const nlohmann::json& error() const { return error_; }  ///< {"error": ...} or null
  CompletionReply& reply() { return reply_; }

 private:
  void take_line(std::string_view line);
  void take_event(const nlohmann::json& event);

  std::function<bool(std::string_view)> on_text_;
  std::string buffer_;
  CompletionReply reply_;
  nlohmann::json error_;
  bool ended_ = false;
  bool stopped_ = false;
};

}  // namespace cachecard::llama_server
