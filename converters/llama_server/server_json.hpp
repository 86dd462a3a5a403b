#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "cachecard/error.hpp"

/// Reading llama-server's JSON without trusting its shape.
namespace cachecard::llama_server {

/// The member where it is an integer.
inline std::optional<std::int64_t> integer_of(const nlohmann::json& object, const char* key) {
  if (!object.is_object()) return std::nullopt;
  const auto found = object.find(key);
  if (found == object.end() || !found->is_number_integer()) return std::nullopt;
  return found->get<std::int64_t>();
}

/// The member where it is a positive integer, else 0.
inline std::uint64_t count_of(const nlohmann::json& object, const char* key) {
  const auto number = integer_of(object, key);
  return number && *number > 0 ? static_cast<std::uint64_t>(*number) : 0;
}

/// The member where it is a string, else empty.
inline std::string text_of(const nlohmann::json& object, const char* key) {
  if (!object.is_object()) return {};
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

inline bool flag_of(const nlohmann::json& object, const char* key) {
  return object.is_object() && object.value(key, nlohmann::json(false)) == nlohmann::json(true);
}

/// One line of what a server or a file said, short and without control characters.
inline std::string quoted_line(std::string_view text) {
  constexpr std::size_t kMaxBytes = 160;
  std::string line;
  for (const char c : text.substr(0, kMaxBytes)) {
    line += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? ' ' : c;
  }
  return text.size() > kMaxBytes ? line + "..." : line;
}

/// An answer with another status than 200: "HTTP 400: <what the server says, one line>".
inline Error status_error(const std::string& call, int status, const nlohmann::json& reply,
                          std::string_view text) {
  std::string said(text);
  if (reply.is_object() && reply.contains("error")) {
    const nlohmann::json& error = reply["error"];
    said = error.is_string() ? error.get<std::string>() : text_of(error, "message");
  }
  std::string detail = "HTTP " + std::to_string(status);
  if (!said.empty()) detail += ": " + quoted_line(said);
  if (status == 401 || status == 403) detail += " (--api-key-file has the key)";
  return {ErrorCode::kTargetUnavailable, kNoOffset, call, std::move(detail)};
}

}  // namespace cachecard::llama_server
