#include <algorithm>
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>

/// Holds the #include lines of the whole tree to the dependency rules of the house.
namespace {

namespace fs = std::filesystem;
using Names = std::set<std::string>;

const fs::path kRoot = CACHECARD_SOURCE_DIR;

struct Include {
  std::string file;    ///< who includes, relative to the root
  std::string target;  ///< what stands between the quotes
};

std::vector<Include> includes_under(const std::string& folder) {
  std::vector<Include> found;
  if (!fs::exists(kRoot / folder)) return found;
  for (const auto& entry : fs::recursive_directory_iterator(kRoot / folder)) {
    const std::string kind = entry.path().extension().string();
    if (!Names{".cpp", ".hpp", ".c", ".h"}.contains(kind)) continue;
    std::ifstream in(entry.path());
    for (std::string line; std::getline(in, line);) {
      const std::size_t open = line.starts_with("#include \"") ? 10 : std::string::npos;
      if (open == std::string::npos) continue;
      found.push_back(
          {fs::relative(entry.path(), kRoot).string(), line.substr(open, line.find('"', open) - open)});
    }
  }
  return found;
}

std::string first_folder(const std::string& path) {
  const std::size_t slash = path.find('/');
  return slash == std::string::npos ? std::string() : path.substr(0, slash);
}

/// Which folders of src/ each folder of src/ may see, itself aside; public headers are seen by all.
const std::map<std::string, Names> kAllowed{
    {"base", {}},
    {"format", {"base"}},
    {"kernel", {"base"}},
    {"codec", {"base", "format", "kernel"}},  // planes: the map and the parameters say how rows are coded
    {"reader", {"base", "format", "kernel", "codec"}},
    {"writer", {"base", "format", "kernel", "codec"}},
    {"edit", {"base", "format", "kernel", "codec", "reader", "writer"}},
    {"allocate", {"base", "format", "kernel", "codec"}},
    {"inject", {"base", "format", "reader"}},
    {"",
     {"base", "format", "kernel", "codec", "reader", "writer", "edit", "inject"}},  // describe, c_api: on top
};

/// Public headers that belong to a folder above: base and format must not see them.
const std::map<std::string, Names> kForbiddenPublic{
    {"base",
     {"cachecard/reader.hpp", "cachecard/writer.hpp", "cachecard/edit.hpp", "cachecard/match.hpp",
      "cachecard/card.hpp"}},
    {"format", {"cachecard/reader.hpp", "cachecard/writer.hpp", "cachecard/edit.hpp", "cachecard/match.hpp"}},
    {"kernel",
     {"cachecard/reader.hpp", "cachecard/writer.hpp", "cachecard/edit.hpp", "cachecard/match.hpp",
      "cachecard/card.hpp"}},
    {"codec", {"cachecard/reader.hpp", "cachecard/writer.hpp", "cachecard/edit.hpp", "cachecard/match.hpp"}},
    {"reader", {"cachecard/writer.hpp", "cachecard/edit.hpp", "cachecard/match.hpp"}},
    {"writer", {"cachecard/reader.hpp", "cachecard/edit.hpp", "cachecard/match.hpp"}},
};

}  // namespace

TEST_CASE("the library's folders see only what lies below them", "[unit]") {
  const std::string src = "libcachecard/src/";
  const auto includes = includes_under("libcachecard/src");
  REQUIRE(includes.size() > 50);
  for (const Include& include : includes) {
    INFO(include.file << " includes " << include.target);
    const std::string from = first_folder(include.file.substr(src.size()));
    REQUIRE(kAllowed.contains(from));
    const auto forbidden = kForbiddenPublic.find(from);
    if (forbidden != kForbiddenPublic.end()) CHECK_FALSE(forbidden->second.contains(include.target));
    const std::string to = first_folder(include.target);
    if (to == "cachecard" || to.empty()) continue;
    CHECK((to == from || kAllowed.at(from).contains(to)));
  }
}

TEST_CASE("public headers include public headers only", "[unit]") {
  const auto includes = includes_under("libcachecard/include");
  REQUIRE(includes.size() > 10);
  for (const Include& include : includes) {
    INFO(include.file << " includes " << include.target);
    CHECK(first_folder(include.target) == "cachecard");
  }
}

TEST_CASE("no converter knows another, and each sees the library's public headers only", "[unit]") {
  // llama_server and llama_live move llama.cpp's states and stand on their converter; llama_calibrate disturbs live ones.
  // The Python package asks a model's GGUF file who it is, as the command does; gguf reads files as llama_cpp
  // does; safetensors' tensors are those of a .pt.
  const std::map<std::string, Names> stands_on{
      {"llama_server", {"llama_cpp"}}, {"llama_live", {"llama_cpp"}}, {"llama_calibrate", {"llama_cpp", "llama_live"}}, {"python", {"llama_cpp"}},
      {"gguf", {"llama_cpp"}},
      {"safetensors", {"torch"}}};
  for (const Include& include : includes_under("converters")) {
    INFO(include.file << " includes " << include.target);
    const std::string from = first_folder(include.file.substr(std::string("converters/").size()));
    const std::string to = first_folder(include.target);
    const auto base = stands_on.find(from);
    const bool allowed = to.empty() || to == "cachecard" || to == from ||
                         (base != stands_on.end() && base->second.contains(to));
    CHECK(allowed);
  }
}

TEST_CASE("tools use public headers of library and converters only", "[unit]") {
  for (const Include& include : includes_under("tools")) {
    INFO(include.file << " includes " << include.target);
    const std::string to = first_folder(include.target);
    const bool converter =
        !to.empty() && fs::exists(kRoot / "converters" / to / fs::path(include.target).filename());
    CHECK((to.empty() || to == "cachecard" || converter));
  }
}

TEST_CASE("zstd and xxHash appear in the one file named for them", "[unit]") {
  const std::map<std::string, std::string> homes{{"zstd.h", "libcachecard/src/codec/byte_compressor.cpp"},
                                                 {"xxhash.h", "libcachecard/src/base/digest.cpp"}};
  for (const auto& entry : fs::recursive_directory_iterator(kRoot / "libcachecard")) {
    if (!entry.is_regular_file()) continue;
    std::ifstream in(entry.path());
    for (std::string line; std::getline(in, line);) {
      for (const auto& [header, home] : homes) {
        if (!line.starts_with("#include") || line.find(header) == std::string::npos) continue;
        CHECK(fs::relative(entry.path(), kRoot).string() == home);
      }
    }
  }
}

TEST_CASE("libllama is seen by the live converter and calibration only", "[unit]") {
  for (const char* folder : {"libcachecard", "converters", "tools/cachecard"}) {
    for (const auto& entry : fs::recursive_directory_iterator(kRoot / folder)) {
      if (!entry.is_regular_file()) continue;
      std::ifstream in(entry.path());
      const std::string file = fs::relative(entry.path(), kRoot).string();
      for (std::string line; std::getline(in, line);) {
        if (!line.starts_with("#include <llama") && !line.starts_with("#include <ggml")) continue;
        INFO(file << ": " << line);
        CHECK((file.starts_with("converters/llama_live/") || file.starts_with("converters/llama_calibrate/")));
      }
    }
  }
}

TEST_CASE("HDF5 and zlib are seen by the HDF5 converter only", "[unit]") {
  for (const char* folder : {"libcachecard", "converters", "tools/cachecard"}) {
    for (const auto& entry : fs::recursive_directory_iterator(kRoot / folder)) {
      if (!entry.is_regular_file()) continue;
      std::ifstream in(entry.path());
      const std::string file = fs::relative(entry.path(), kRoot).string();
      for (std::string line; std::getline(in, line);) {
        const bool hdf5 = line.starts_with("#include <hdf5") || line.starts_with("#include <H5");
        if (!hdf5 && !line.starts_with("#include <zlib")) continue;
        INFO(file << ": " << line);
        // h5_file.hpp hands it on, and the command does not include that; zlib is one file's own business.
        CHECK((hdf5 ? file.starts_with("converters/hdf5/h5_file.") : file == "converters/hdf5/chunk_filter.cpp"));
      }
    }
  }
}

TEST_CASE("no file is longer than 400 lines, and file names are unique", "[unit]") {
  // records.hpp is one table of all records; cachecard.h is the whole C ABI.
  const Names longer{"records.hpp", "cachecard.h"};
  std::map<std::string, std::string> names;
  for (const char* folder : {"libcachecard", "converters", "tools", "tests", "fixtures"}) {
    if (!fs::exists(kRoot / folder)) continue;
    for (const auto& entry : fs::recursive_directory_iterator(kRoot / folder)) {
      const std::string name = entry.path().filename().string();
      const std::string kind = entry.path().extension().string();
      if (!Names{".cpp", ".hpp", ".h", ".c", ".py"}.contains(kind)) continue;
      INFO(entry.path().string());
      std::ifstream in(entry.path());
      const auto lines = std::count(std::istreambuf_iterator<char>(in), {}, '\n');
      CHECK((lines <= 400 || longer.contains(name)));
      const auto [other, fresh] = names.emplace(name, entry.path().string());
      INFO("also " << other->second);
      CHECK((fresh || name == "main.cpp"));
    }
  }
}
