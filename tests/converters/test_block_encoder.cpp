#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <limits>

#include "block_values.hpp"
#include "cachecard/digest.hpp"
#include "kernel/floats.hpp"
#include "kernel/ggml_blocks.hpp"
#include "llama_cpp/block_encoder.hpp"
#include "state_fixture.hpp"

using namespace cachecard;
using namespace cachecard::llama_cpp;
using namespace cachecard::llama_cpp::test;

namespace {

struct BlockType {
  DType dtype;
  const char* fixture;
  std::uint64_t digest;  ///< XXH3-64 of what ggml's CPU code makes of block_values(); see
                         ///< tests/runtime/test_ggml_quantisers.cpp
  float bound;           ///< of |x - decoded| over the largest magnitude of the block
};

constexpr std::array<BlockType, 6> kTypes{{{DType::kQ8_0, "llama_q8_0.seq", 0x3d379e30a5ebc828, 0.0045f},
                                           {DType::kQ4_0, "llama_q4_0.seq", 0xcb60c93ea62909f3, 0.127f},
                                           {DType::kQ4_1, "llama_q4_1.seq", 0xaa33238f734ec24b, 0.07f},
                                           {DType::kQ5_0, "llama_q5_0.seq", 0xb7b5abe679cbf91b, 0.064f},
                                           {DType::kQ5_1, "llama_q5_1.seq", 0xa754ee044349294f, 0.034f},
                                           {DType::kIq4Nl, "llama_iq4_nl.seq", 0xe38914217711c8c3, 0.13f}}};

Bytes encoded(DType dtype, std::span<const float> values, double* loss = nullptr) {
  const DTypeInfo& info = *dtype_info(dtype);
  Bytes out(values.size() / info.block_elements * info.block_bytes);
  const double found = encode_blocks(dtype, values, out);
  if (loss != nullptr) *loss = found;
  return out;
}

std::vector<float> decoded(DType dtype, std::span<const std::byte> bytes, std::size_t count) {
  std::vector<float> out(count);
  kernel::to_f32(dtype, bytes, out);
  return out;
}

}  // namespace

TEST_CASE("blocks are those of ggml's CPU code", "[converters]") {
  const std::vector<float> values = block_values();
  for (const BlockType& type : kTypes) {
    const Bytes bytes = encoded(type.dtype, values);
    INFO(name_of(type.dtype) << " 0x" << std::hex << digest64(bytes));
    CHECK(digest64(bytes) == type.digest);
  }
}

TEST_CASE("the loss of a block is what a decoder sees, and within the type's bound", "[converters]") {
  const std::vector<float> values = block_values();
  for (const BlockType& type : kTypes) {
    INFO(name_of(type.dtype));
    for (std::size_t at = 0; at < values.size(); at += 32) {
      const std::span<const float> block(values.data() + at, 32);
      double loss = 0.0;
      const auto back = decoded(type.dtype, encoded(type.dtype, block, &loss), 32);
      float largest = 0.0f;
      float seen = 0.0f;
      for (std::size_t i = 0; i < 32; ++i) {
        largest = std::max(largest, std::fabs(block[i]));
        seen = std::max(seen, std::fabs(block[i] - back[i]));
      }
      REQUIRE(static_cast<float>(loss) == seen);
      if (largest > 0.1f) REQUIRE(seen <= type.bound * largest);
    }
  }
}

TEST_CASE("a float cache becomes the blocks that llama.cpp wrote itself", "[converters]") {
  // Layer 0 sees the same inputs whatever the cache's type; later layers see the cache.
  const auto card = fixture_card("llama_f32.seq");
  for (const BlockType& type : kTypes) {
    const FixtureFacts own = fixture(type.fixture);
    StateTemplate target = template_of_fixture(type.fixture);
    const auto made = write(**card, target);
    INFO(type.fixture << ": " << (made ? "" : made.error().message()));
    REQUIRE(made);
    const Bytes theirs = fixture_bytes(own);
    const ModelFacts model = fixture_model(own);
    const auto parsed = parse_state(MemorySource(theirs), &model, fixture_options(own));
    REQUIRE(parsed);
    REQUIRE(made->size() == theirs.size());
    for (const auto& tensor : {parsed->caches[0].keys[0], parsed->caches[0].values[0]}) {
      const std::size_t size = tensor.row_bytes * parsed->caches[0].cell_count;
      CHECK(std::memcmp(made->data() + tensor.data_offset, theirs.data() + tensor.data_offset, size) == 0);
    }
  }
}

TEST_CASE("groups rotate as the library rotates them", "[converters]") {
  for (const std::size_t n : {std::size_t{64}, std::size_t{128}, std::size_t{256}}) {
    std::vector<float> ours = block_values();
    ours.resize(ours.size() / n * n);
    std::vector<float> theirs = ours;
    rotate_groups(ours, n);
    kernel::hadamard(theirs, n);
    CHECK(std::memcmp(ours.data(), theirs.data(), ours.size() * sizeof(float)) == 0);
  }
}

TEST_CASE("rotation is put on and taken off, types change, and the loss is told", "[converters]") {
  struct Case {
    const char* from;
    const char* to;
    double bound;  ///< of the largest difference to the f32 state's values
  };
  for (const Case& change :
       {Case{"llama_q8_0.seq", "llama_q8_0_unrotated.seq", 0.06},
        Case{"llama_q8_0_unrotated.seq", "llama_q8_0.seq", 0.06},
        Case{"llama_q8_0.seq", "llama_f16.seq", 0.06}, Case{"llama_f16.seq", "llama_q4_0.seq", 0.6},
        Case{"llama_q4_0.seq", "llama_q8_0.seq", 0.6}}) {
    const auto card = fixture_card(change.from);
    MemorySink sink;
    const auto report = write_state(**card, template_of_fixture(change.to), sink);
    INFO(change.from << " to " << change.to << ": " << (report ? "" : report.error().message()));
    REQUIRE(report);
    CHECK(report->max_conversion_loss > 0.0);
    REQUIRE(report->notes.size() == 1);
    CHECK(report->notes[0].find("was converted to") != std::string::npos);
    const FixtureFacts like = fixture(change.to);
    const auto back = make_card(sink.bytes(), fixture_model(like), fixture_options(like));
    REQUIRE(back);
    std::vector<float> before(128);
    std::vector<float> after(128);
    for (std::size_t stream = 0; stream < 4; ++stream) {
      for (auto [from, values] : {std::pair{&**card, &before}, std::pair{&***back, &after}}) {
        DecodeTarget target{values->data(), DType::kF32, 512, 256, 4, nullptr};
        REQUIRE(from->decode({stream, 4, 1, false}, target));
      }
      for (std::size_t i = 0; i < before.size(); ++i) CHECK(std::fabs(before[i] - after[i]) < change.bound);
    }
  }
}

TEST_CASE("values that are not finite become no blocks, whatever is allowed", "[converters]") {
  HandState state;
  Bytes bytes = state.bytes();
  const std::uint16_t nan = 0x7E00;
  std::memcpy(bytes.data() + bytes.size() - 10, &nan, 2);
  const auto card = make_card(bytes, small_model());
  REQUIRE(card);
  StateTemplate target;
  StateTemplate::Cache cache;
  cache.key_types = cache.value_types = {DType::kQ8_0};
  cache.key_row_bytes = cache.value_row_bytes = {136};
  target.caches = {cache};
  for (const bool allow : {false, true}) {
    StateWriteOptions options;
    options.allow_nonfinite = allow;
    const auto made = write(***card, target, options);
    REQUIRE_FALSE(made);
    CHECK(made.error().code == ErrorCode::kNonFinite);
    CHECK(made.error().message().find("value of layer 0") != std::string::npos);
  }
}
