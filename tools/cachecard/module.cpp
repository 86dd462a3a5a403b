#include "module.hpp"

#include <dlfcn.h>
#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <vector>

namespace cachecard::cli {
namespace {

namespace fs = std::filesystem;

/// Nothing but these: never the working directory, never a search path.
std::vector<fs::path> module_folders() {
  std::error_code error;
  const fs::path command = fs::read_symlink("/proc/self/exe", error);
  if (error) return {};
  const fs::path folder = command.parent_path();
  return {folder, (folder / CACHECARD_MODULE_FOLDER).lexically_normal()};
}

Error no_module(std::string detail) {
  return {ErrorCode::kUnsupportedFeature, kNoOffset, {}, std::move(detail)};
}

}  // namespace

Result<void*> open_module(const std::string& file, const char* symbol, const std::string& how_to_get) {
  for (const fs::path& folder : module_folders()) {
    const fs::path path = folder / file;
    if (::access(path.c_str(), F_OK) != 0) continue;
    void* module = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (module == nullptr) {
      const char* reason = ::dlerror();
      return no_module(
          fmt::format("{} does not load ({}): {}", file, reason == nullptr ? "unknown" : reason, how_to_get));
    }
    void* found = ::dlsym(module, symbol);
    if (found == nullptr) return no_module(fmt::format("{} is no module of this command", file));
    return found;
  }
  return no_module(fmt::format("{} is not installed: {}", file, how_to_get));
}

}  // namespace cachecard::cli
