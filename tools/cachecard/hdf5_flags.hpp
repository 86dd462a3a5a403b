#pragma once

#include <span>
#include <string>

#include "hdf5/h5_module.hpp"

namespace CLI {
class App;
}

namespace cachecard::cli {

/// What the user says about an HDF5 file that is to be written.
struct Hdf5Flags {
  bool coded = false;
  bool decoded = false;
  int deflate = -1;  ///< -1: not given

  bool any_given() const { return coded || decoded || deflate >= 0; }
};

void add_hdf5_options(CLI::App& command, Hdf5Flags& flags);

/// Whether first bytes are those of an HDF5 file without a user block.
bool looks_like_hdf5(std::span<const std::byte> head);

/// The module built on the HDF5 library. Errors: unsupported_feature, saying how to get it
Result<const hdf5::Hdf5Module*> hdf5_module();

}  // namespace cachecard::cli
