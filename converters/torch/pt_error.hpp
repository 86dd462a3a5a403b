#pragma once

#include <string>
#include <string_view>

#include "cachecard/error.hpp"

namespace cachecard::pytorch {

/// A .pt that is not understood or not accepted: what, where, found, allowed.
inline Error pt_error(std::uint64_t offset, std::string_view field, std::string detail) {
  return {ErrorCode::kForeignInput, offset, std::string(field), std::move(detail)};
}

/// A name out of a file for a message: printable, at most 80 characters.
inline std::string shown(std::string_view name) {
  std::string text;
  for (const char c : name.substr(0, 80)) text += c >= ' ' && c <= '~' ? c : '?';
  if (name.size() > 80) text += "...";
  return text;
}

}  // namespace cachecard::pytorch
