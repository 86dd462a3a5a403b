#pragma once

#include <string>

#include "cachecard/reader.hpp"

namespace cachecard {

/// What segments have of their text, one behind the other. Errors: the reader's
Result<std::string> text_of(const CardReader& card);

}  // namespace cachecard
