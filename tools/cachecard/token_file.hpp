#pragma once

#include <string>
#include <vector>

#include "cachecard/error.hpp"

namespace cachecard::cli {

/// Token ids of a text file: decimal numbers with white space or commas between them, in brackets or not.
/// Errors: io, invalid_argument (what and in which line), limit_exceeded
Result<std::vector<std::int32_t>> read_token_file(const std::string& path);

}  // namespace cachecard::cli
