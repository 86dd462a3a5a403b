#include "h5_module.hpp"

#include "h5_file.hpp"

extern "C" __attribute__((visibility("default"))) const cachecard::hdf5::Hdf5Module* cachecard_hdf5_module() {
  using namespace cachecard::hdf5;
  leave_files_at_exit();
  static constexpr Hdf5Module kModule{Hdf5Module::kVersion, &open_h5_card, &write_h5};
  return &kModule;
}
