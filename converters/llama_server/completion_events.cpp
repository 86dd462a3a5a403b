#include "llama_server/completion_events.hpp"

namespace cachecard::llama_server {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxLineBytes = std::size_t{64} << 20;

}  // namespace

bool CompletionEvents::take(std::string_view bytes) {
  if (buffer_.size() + bytes.size() > kMaxLineBytes) return false;
  buffer_.append(bytes);
  std::size_t start = 0;
  for (std::size_t end = buffer_.find('\n'); end != std::string::npos && !stopped_;
       end = buffer_.find('\n', start)) {
    take_line(std::string_view(buffer_).substr(start, end - start));
    start = end + 1;
  }
  buffer_.erase(0, start);
  return !stopped_;
}

void CompletionEvents::take_line(std::string_view line) {
  const std::size_t brace = line.find('{');
  if (brace == std::string_view::npos) return;
  const json event = json::parse(line.substr(brace), nullptr, false);
  if (event.is_discarded()) return;
  if (event.contains("error")) {
    error_ = event;
  } else if (line.starts_with("error")) {
    error_ = json{{"error", event}};
  } else {
    take_event(event);
  }
}

void CompletionEvents::take_event(const json& event) {
  using Clock = std::chrono::steady_clock;
  if (reply_.first_token == Clock::time_point{}) reply_.first_token = Clock::now();
  const std::string text = text_of(event, "content");
  reply_.content += text;
  if (event.contains("tokens") && event["tokens"].is_array()) {
    for (const json& token : event["tokens"]) {
      if (token.is_number_integer()) reply_.tokens.push_back(token.get<std::int32_t>());
    }
  }
  if (flag_of(event, "stop")) {
    ended_ = true;
    const json timings = event.value("timings", json::object());
    reply_.cache_count = count_of(timings, "cache_n");
    reply_.prompt_count = count_of(timings, "prompt_n");
    const json prompt_ms = timings.is_object() ? timings.value("prompt_ms", json()) : json();
    if (prompt_ms.is_number()) reply_.prompt_seconds = prompt_ms.get<double>() / 1000.0;
  }
  if (!text.empty() && on_text_ && !on_text_(text)) stopped_ = true;
}

}  // namespace cachecard::llama_server
