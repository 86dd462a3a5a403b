#include <catch2/catch.hpp>
#include <cstring>

#include "kernel/ggml_blocks.hpp"
#include "torch/pt_source.hpp"

using namespace cachecard;
using namespace cachecard::pytorch;

namespace {

const std::string kFolder = std::string(CACHECARD_FIXTURES_DIR) + "/caches/torch/";

/// As make_pt_fixtures.py has it.
float value_of(std::uint64_t layer, std::uint64_t side, std::uint64_t head, std::uint64_t token,
               std::uint64_t channel) {
  return static_cast<float>(((((layer * 2 + side) * 3 + head) * 31 + token) * 17 + channel) % 256) - 128.0f;
}

std::unique_ptr<ByteSource> open(const std::string& name) {
  auto file = open_file(kFolder + name);
  REQUIRE(file);
  return std::move(*file);
}

void check_stream(const CacheSource& source, std::size_t index) {
  const StreamRecord& stream = source.header().streams[index];
  const auto dtype = static_cast<DType>(stream.dtype);
  std::vector<std::byte> rows(stream.token_count * row_bytes(stream, dtype));
  REQUIRE(source.read_rows(index, stream.first_token, stream.token_count, rows));
  std::vector<float> values(stream.token_count * row_elements(stream));
  kernel::to_f32(dtype, rows, values);
  std::size_t wrong = 0;
  for (std::uint64_t t = 0, at = 0; t < stream.token_count; ++t) {
    for (std::uint64_t h = 0; h < stream.kv_head_count; ++h) {
      for (std::uint64_t c = 0; c < stream.head_dim; ++c, ++at) {
        if (values[at] != value_of(stream.layer, stream.stream, h, stream.first_token + t, c)) ++wrong;
      }
    }
  }
  CHECK(wrong == 0);
}

}  // namespace

TEST_CASE("files of the real torch.save hold the values that were put in", "[converters]") {
  struct Fixture {
    const char* name;
    DType dtype;
    PtContainer container;
    std::uint64_t held;  ///< by layer 1
  };
  for (const Fixture& fixture : {Fixture{"pairs_f16.pt", DType::kF16, PtContainer::kZip, 6},
                                 Fixture{"pairs_bf16_legacy.pt", DType::kBf16, PtContainer::kLegacy, 6},
                                 Fixture{"lists_f32.pt", DType::kF32, PtContainer::kZip, 6},
                                 Fixture{"pairs_f16_protocol4.pt", DType::kF16, PtContainer::kZip, 6},
                                 Fixture{"dict_f16.pt", DType::kF16, PtContainer::kZip, 6},
                                 Fixture{"strided_bf16.pt", DType::kBf16, PtContainer::kZip, 6},
                                 Fixture{"sliding_f16.pt", DType::kF16, PtContainer::kZip, 4},
                                 Fixture{"transformers4_f16.pt", DType::kF16, PtContainer::kZip, 6},
                                 Fixture{"transformers5_f16.pt", DType::kF16, PtContainer::kZip, 4}}) {
    INFO(fixture.name);
    const auto file = open(fixture.name);
    auto cache = read_pt_cache(*file);
    REQUIRE(cache);
    CHECK(cache->container == fixture.container);
    if (fixture.held == 4 && cache->shapes[1].window == 0)
      cache->shapes[1].window = 5;  // sliding_f16 does not say
    auto source = pt_source(*file, *cache, {});
    REQUIRE(source);
    const CardHeader& header = (*source)->header();
    CHECK(header.token_count == 6);
    REQUIRE(header.streams.size() == 4);
    CHECK(header.streams[3].token_count == fixture.held);
    for (std::size_t i = 0; i < 4; ++i) {
      CHECK(static_cast<DType>(header.streams[i].dtype) == fixture.dtype);
      check_stream(**source, i);
    }
    if (!(*source)->token_ids().empty()) CHECK((*source)->token_ids()[5] == 105);
  }
}

TEST_CASE("files that no card may come of are refused by name", "[converters]") {
  for (const auto& [name, says] :
       {std::pair{"code.pt", "names posix.system"}, std::pair{"code_legacy.pt", "names posix.system"},
        std::pair{"quantised_cache.pt", "a quantised Hugging Face cache"},
        std::pair{"batch_2.pt", "a batch of 2"}, std::pair{"f64.pt", "found f64, allowed"},
        std::pair{"expanded.pt", "an expanded tensor"}, std::pair{"sparse.pt", "a sparse tensor"}}) {
    INFO(name);
    const auto file = open(std::string("refused/") + name);
    auto cache = read_pt_cache(*file);
    REQUIRE_FALSE(cache);
    CHECK(cache.error().code == ErrorCode::kForeignInput);
    CHECK_THAT(cache.error().message(), Catch::Contains(says));
  }
}
