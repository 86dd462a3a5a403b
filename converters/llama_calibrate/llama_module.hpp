#pragma once

#include "llama_calibrate/calibrate.hpp"
#include "llama_calibrate/probe.hpp"
#include "llama_calibrate/weights_map.hpp"

namespace cachecard::llama_calibrate {

/// What the module built on libllama gives to the command, which opens it by name. Both are built
/// together: the number refuses a module of another build.
struct LlamaModule {
  static constexpr std::uint32_t kVersion = 2;
  static constexpr const char* kFile = "cachecard_llama.so";
  static constexpr const char* kSymbol = "cachecard_llama_module";

  std::uint32_t version = kVersion;
  decltype(&calibrate) run_calibrate = nullptr;
  decltype(&least_tokens) count_least_tokens = nullptr;
  decltype(&probe) run_probe = nullptr;
  decltype(&profile_of_weights) make_profile_of_weights = nullptr;
};

}  // namespace cachecard::llama_calibrate

/// The module's one symbol.
extern "C" const cachecard::llama_calibrate::LlamaModule* cachecard_llama_module();
