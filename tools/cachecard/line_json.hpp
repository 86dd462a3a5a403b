#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cachecard/error.hpp"

namespace cachecard::cli {

/// JSON that people write by hand: every value knows the line that it begins in, from 1 on.
struct LineJson {
  enum class Kind : std::uint8_t { kNull, kBool, kNumber, kText, kArray, kObject };

  Kind kind = Kind::kNull;
  std::size_t line = 1;
  bool flag = false;
  double number = 0.0;
  std::string text;
  std::vector<LineJson> items;                            ///< of an array
  std::vector<std::pair<std::string, LineJson>> members;  ///< of an object, in order

  /// nullptr where an object has no such member.
  const LineJson* find(std::string_view name) const;
  /// "text", "a number", ...
  std::string_view noun() const;
};

/// Errors: invalid_argument, "line N: ...": no JSON, a member twice, too deep
Result<LineJson> parse_line_json(std::string_view text);

}  // namespace cachecard::cli
