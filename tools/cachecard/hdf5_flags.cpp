#include "hdf5_flags.hpp"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstring>

#include "module.hpp"

namespace cachecard::cli {

void add_hdf5_options(CLI::App& command, Hdf5Flags& flags) {
  const std::string group = "To HDF5 (.h5)";
  CLI::Option* coded = command.add_flag("--coded", flags.coded, "The card's own sections: become the same card again");
  CLI::Option* decoded = command.add_flag("--decoded", flags.decoded, "Values, for h5py and h5dump (default)");
  coded->group(group)->excludes(decoded);
  decoded->group(group);
  command.add_option("--deflate", flags.deflate, "Deflate level of values, 0: none (default: 1)")
      ->check(CLI::Range(0, 9))
      ->type_name("LEVEL")
      ->excludes(coded)
      ->group(group);
}

bool looks_like_hdf5(std::span<const std::byte> head) {
  // source: HDF5 File Format Specification, II.A
  constexpr std::string_view kSignature = "\x89HDF\r\n\x1a\n";
  return head.size() >= kSignature.size() && std::memcmp(head.data(), kSignature.data(), kSignature.size()) == 0;
}

Result<const hdf5::Hdf5Module*> hdf5_module() {
  return module_of<hdf5::Hdf5Module>(
      "build CacheCard with -DCACHECARD_WITH_HDF5=ON (Debian: apt-get install libhdf5-dev)");
}

}  // namespace cachecard::cli
