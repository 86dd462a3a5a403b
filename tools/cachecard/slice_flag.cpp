#include "slice_flag.hpp"

#include <fmt/format.h>

#include <charconv>

namespace cachecard::cli {
namespace {

std::optional<std::uint64_t> number(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || failed != std::errc{} || end != text.data() + text.size()) return {};
  return value;
}

}  // namespace

Result<Cut> parse_cut(std::string_view flag, std::string_view text) {
  if (text.empty()) return Cut{};
  const std::size_t colon = text.find(':');
  const Error wrong{ErrorCode::kInvalidArgument,
                    kNoOffset,
                    {},
                    fmt::format("{}: found '{}', allowed are A:B, A: and :B with A < B (B is the "
                                "first one left out)",
                                flag, text)};
  if (colon == std::string_view::npos) return wrong;
  const std::string_view left = text.substr(0, colon);
  const std::string_view right = text.substr(colon + 1);
  const auto first = left.empty() ? std::uint64_t{0} : number(left);
  const auto end = number(right);
  if (!first || (!right.empty() && (!end || *end <= *first))) return wrong;
  return Cut{*first, end};
}

}  // namespace cachecard::cli
