#pragma once

#include <string>

#include "cachecard/error.hpp"

namespace cachecard::cli {

/// The symbol of a module: a shared object beside the command, or in ../lib*/cachecard of an installed
/// one. It stays open until the process ends. The command links none, so that it starts at once.
/// how_to_get: what to say where there is no such file. Errors: unsupported_feature
Result<void*> open_module(const std::string& file, const char* symbol, const std::string& how_to_get);

}  // namespace cachecard::cli
