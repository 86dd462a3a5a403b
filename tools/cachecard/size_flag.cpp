#include "size_flag.hpp"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <map>

namespace cachecard::cli {

CLI::Option* add_size_option(CLI::App& command, const std::string& name, std::uint64_t& bytes, const std::string& help) {
  static const std::map<std::string, double> kUnits{{"b", 1.0},        {"k", 1e3},        {"kb", 1e3}, {"m", 1e6},
                                                    {"mb", 1e6},       {"g", 1e9},        {"gb", 1e9}, {"kib", 0x1p10},
                                                    {"mib", 0x1p20},   {"gib", 0x1p30}};
  constexpr double kMost = 0x1p60;
  const auto take = [&bytes, name](const double& size) {
    if (!(size >= 1.0 && size <= kMost)) throw CLI::ValidationError(name, fmt::format("found {}, allowed is 1 byte to 2^60", size));
    bytes = static_cast<std::uint64_t>(size);
  };
  return command.add_option_function<double>(name, take, help)
      ->transform(CLI::AsNumberWithUnit(kUnits, CLI::AsNumberWithUnit::CASE_INSENSITIVE))
      ->type_name("SIZE");
}

}  // namespace cachecard::cli
