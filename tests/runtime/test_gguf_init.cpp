// Caches as GGUF files, read by ggml's own gguf_init_from_file: the one that libllama loads models with.
#include <ggml.h>
#include <gguf.h>
#include <unistd.h>

#include "../converters/gguf_round_trip.hpp"
#include "gguf/gguf_names.hpp"

using namespace cachecard;
using namespace cachecard::gguf;
using namespace cachecard::gguf::test;

namespace {

struct GgmlFile {
  explicit GgmlFile(const std::string& path) {
    file = gguf_init_from_file(path.c_str(), {.no_alloc = false, .ctx = &tensors});
  }
  GgmlFile(const GgmlFile&) = delete;
  GgmlFile& operator=(const GgmlFile&) = delete;
  ~GgmlFile() {
    gguf_free(file);
    ggml_free(tensors);
  }
  ggml_context* tensors = nullptr;
  gguf_context* file = nullptr;
};

struct Folder {
  Folder() : path(std::filesystem::temp_directory_path() / ("cachecard_gguf_" + std::to_string(::getpid()))) {
    std::filesystem::create_directories(path);
  }
  ~Folder() { std::filesystem::remove_all(path); }
  std::string write(const Bytes& bytes) const {
    const std::string file = (path / "cache.gguf").string();
    auto sink = create_file(file, {.sync = false, .overwrite = true});
    REQUIRE(sink);
    REQUIRE((*sink)->write(bytes));
    REQUIRE((*sink)->commit());
    return file;
  }
  std::filesystem::path path;
};

}  // namespace

TEST_CASE("ggml reads the GGUF file of every valid card", "[runtime]") {
  const Folder folder;
  int tensors = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(std::string(CACHECARD_FIXTURES_DIR) + "/valid")) {
    if (entry.path().extension() != ".card") continue;
    INFO(entry.path().filename().string());
    const ValidCard valid(entry.path());
    const GgmlFile ggml(folder.write(gguf_of(*valid.card)));
    REQUIRE(ggml.file != nullptr);
    const auto key = gguf_find_key(ggml.file, "general.type");
    REQUIRE(key >= 0);
    CHECK(std::string(gguf_get_val_str(ggml.file, key)) == "kv-cache");
    const CardHeader& header = valid.card->header();
    const auto positions = gguf_find_key(ggml.file, "kv_cache.positions");
    REQUIRE((positions >= 0) == (header.token_count > 0));  // empty arrays are left out
    if (positions >= 0) CHECK(gguf_get_arr_n(ggml.file, positions) == header.token_count);
    for (std::size_t i = 0; i < header.streams.size(); ++i) {
      const StreamRecord& stream = header.streams[i];
      if (static_cast<StreamKind>(stream.stream) == StreamKind::kOpaque || stream.token_count == 0) continue;
      const ggml_tensor* tensor = ggml_get_tensor(ggml.tensors, tensor_name(stream).c_str());
      REQUIRE(tensor != nullptr);
      CHECK(tensor->type == static_cast<ggml_type>(stream.dtype));
      CHECK(tensor->ne[0] == static_cast<std::int64_t>(row_elements(stream)));
      CHECK(tensor->ne[1] == static_cast<std::int64_t>(stream.token_count));
      std::vector<std::byte> rows(stream.token_count * row_bytes(stream, static_cast<DType>(stream.dtype)));
      std::vector<std::byte> scratch(valid.card->scratch_bytes(i));
      REQUIRE(valid.card->read_rows(i, stream.first_token, stream.token_count, rows, scratch));
      REQUIRE(ggml_nbytes(tensor) == rows.size());
      CHECK(std::memcmp(tensor->data, rows.data(), rows.size()) == 0);
      ++tensors;
    }
  }
  CHECK(tensors > 200);
}

TEST_CASE("ggml refuses the gaps, overlaps and alignments that our reader refuses", "[runtime]") {
  const Folder folder;
  const ValidCard valid("ggml_q8_0.card");
  const auto taken = [&folder](GgufSurgeon file) {
    return GgmlFile(folder.write(file.bytes())).file != nullptr;
  };
  const GgufSurgeon whole(gguf_of(*valid.card));
  CHECK(taken(whole));
  GgufSurgeon gap = whole;
  for (std::size_t i = 1; i < gap.tensors.size(); ++i) gap.tensors[i].offset += 32;
  CHECK_FALSE(taken(gap));
  GgufSurgeon overlap = whole;
  overlap.tensors[1].offset = 0;
  CHECK_FALSE(taken(overlap));
  GgufSurgeon twice = whole;
  twice.tensors[1].name = twice.tensors[0].name;
  CHECK_FALSE(taken(twice));
  GgufSurgeon odd = whole;
  odd.set<std::uint32_t>("general.alignment", 24);
  CHECK_FALSE(taken(odd));
}
