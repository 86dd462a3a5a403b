#include "llama_calibrate/llama_module.hpp"

extern "C" __attribute__((visibility("default"))) const cachecard::llama_calibrate::LlamaModule*
cachecard_llama_module() {
  using namespace cachecard::llama_calibrate;
  static constexpr LlamaModule kModule{LlamaModule::kVersion, &calibrate, &least_tokens, &probe, &profile_of_weights};
  return &kModule;
}
