#include "h5_module.hpp"

extern "C" __attribute__((visibility("default"))) const cachecard::hdf5::Hdf5Module* cachecard_hdf5_module() {
  using namespace cachecard::hdf5;
  static constexpr Hdf5Module kModule{Hdf5Module::kVersion, &open_h5_card, &write_h5};
  return &kModule;
}
