#pragma once

#include <fmt/format.h>

#include <string>

#include "cachecard/error.hpp"

namespace cachecard::cli {

/// The symbol of a module: a shared object beside the command, or in ../lib*/cachecard of an installed
/// one. It stays open until the process ends. The command links none, so that it starts at once.
/// how_to_get: what to say where there is no such file. Errors: unsupported_feature
Result<void*> open_module(const std::string& file, const char* symbol, const std::string& how_to_get);

/// What a module gives, as its kFile, kSymbol and kVersion say. Errors: unsupported_feature (not there, or of another build)
template <class Module>
Result<const Module*> module_of(const std::string& how_to_get) {
  auto symbol = open_module(Module::kFile, Module::kSymbol, how_to_get);
  if (!symbol) return symbol.error();
  const Module* module = reinterpret_cast<const Module* (*)()>(*symbol)();
  if (module->version == Module::kVersion) return module;
  return Error{ErrorCode::kUnsupportedFeature, kNoOffset, {},
               fmt::format("{} is of another build: found version {}, allowed {}", Module::kFile, module->version, Module::kVersion)};
}

}  // namespace cachecard::cli
