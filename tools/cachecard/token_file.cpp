#include "token_file.hpp"

#include <fmt/format.h>

#include <charconv>
#include <limits>

#include "cachecard/types.hpp"
#include "input.hpp"

namespace cachecard::cli {
namespace {

constexpr std::uint64_t kMaxBytes = 64u << 20;

Result<std::string> read_text(const std::string& path) {
  auto source = open_input(path);
  if (!source) return source.error();
  if ((*source)->size() > kMaxBytes) {
    return Error{ErrorCode::kLimitExceeded, kNoOffset, "--tokens",
                 fmt::format("{} bytes, allowed {}", (*source)->size(), kMaxBytes)};
  }
  std::string text((*source)->size(), '\0');
  if (Status s = (*source)->read_at(0, std::as_writable_bytes(std::span(text))); !s) return s.error();
  return text;
}

}  // namespace

Result<std::vector<std::int32_t>> read_token_file(const std::string& path) {
  auto text = read_text(path);
  if (!text) return text.error();
  std::vector<std::int32_t> ids;
  std::size_t line = 1;
  const char* end = text->data() + text->size();
  for (const char* at = text->data(); at < end;) {
    if (*at == '\n') ++line;
    if (std::string_view(" \t\r\n,[]").find(*at) != std::string_view::npos) {
      ++at;
      continue;
    }
    std::int32_t id = 0;
    const auto [next, error] = std::from_chars(at, end, id);
    const bool ends = next == end || std::string_view(" \t\r\n,[]").find(*next) != std::string_view::npos;
    if (error != std::errc() || !ends || id < 0) {
      return Error{ErrorCode::kInvalidArgument, kNoOffset, "--tokens",
                   fmt::format("line {}: found something else than a token id (0 to {})", line,
                               std::numeric_limits<std::int32_t>::max())};
    }
    ids.push_back(id);
    at = next;
  }
  if (ids.size() > Limits{}.token_count) {
    return Error{ErrorCode::kLimitExceeded, kNoOffset, "--tokens",
                 fmt::format("{} token ids, allowed {}", ids.size(), Limits{}.token_count)};
  }
  if (ids.empty())
    return Error{ErrorCode::kInvalidArgument, kNoOffset, "--tokens", "the file holds no token id"};
  return ids;
}

}  // namespace cachecard::cli
