#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "cachecard/error.hpp"

namespace cachecard::cli {

/// [first, end); end absent: to the last.
struct Cut {
  std::uint64_t first = 0;
  std::optional<std::uint64_t> end;
};

/// A:B, A: and :B, as slices are written; empty: everything. Errors: invalid_argument, naming the flag
Result<Cut> parse_cut(std::string_view flag, std::string_view text);

}  // namespace cachecard::cli
