#include "torch_module.hpp"

extern "C" __attribute__((visibility("default"))) const cachecard::pytorch::TorchModule*
cachecard_torch_module() {
  using namespace cachecard::pytorch;
  static constexpr TorchModule kModule{TorchModule::kVersion, &read_with_torch, &write_with_torch};
  return &kModule;
}
