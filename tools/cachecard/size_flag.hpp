#pragma once

#include <cstdint>
#include <string>

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace cachecard::cli {

/// A size in bytes: a number above 0, with a fraction where it has a unit: k, M, G (of 1000) or KiB, MiB, GiB.
CLI::Option* add_size_option(CLI::App& command, const std::string& name, std::uint64_t& bytes, const std::string& help);

}  // namespace cachecard::cli
