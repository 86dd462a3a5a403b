#pragma once

#include "h5_card.hpp"
#include "h5_writer.hpp"

namespace cachecard::hdf5 {

/// What the module built on the HDF5 library gives to the command, which opens it by name. Both are built together: the
/// number refuses a module of another build.
struct Hdf5Module {
  static constexpr std::uint32_t kVersion = 1;
  static constexpr const char* kFile = "cachecard_hdf5.so";
  static constexpr const char* kSymbol = "cachecard_hdf5_module";

  std::uint32_t version = kVersion;
  decltype(&open_h5_card) open = nullptr;
  decltype(&write_h5) write = nullptr;
};

}  // namespace cachecard::hdf5

/// The module's one symbol.
extern "C" const cachecard::hdf5::Hdf5Module* cachecard_hdf5_module();
