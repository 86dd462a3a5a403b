#include <bit>
#include <catch2/catch.hpp>
#include <cmath>

#include "fixture_values.hpp"
#include "kernel/ggml_blocks.hpp"
#include "reference_decode.hpp"

using namespace cachecard;
using fixtures::ValueKind;

namespace {

constexpr std::array kTypes{DType::kF32,  DType::kF16,  DType::kBf16, DType::kQ8_0, DType::kQ4_0,
                            DType::kQ4_1, DType::kQ5_0, DType::kQ5_1, DType::kIq4Nl};
constexpr std::size_t kCount = 32 * 40;

StreamRecord stream_of(DType dtype) {
  StreamRecord stream;
  stream.dtype = static_cast<std::uint8_t>(dtype);
  stream.kv_head_count = 1;
  stream.head_dim = 32;
  return stream;
}

bool same_bits(float a, float b) {
  return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b);
}

}  // namespace

TEST_CASE("every element type decodes as its definition says, bit for bit", "[unit]") {
  for (DType dtype : kTypes) {
    for (ValueKind kind : {ValueKind::kSmooth, ValueKind::kCoarse, ValueKind::kDenormal}) {
      fixtures::Random random(name_of(dtype));
      const auto bytes = fixtures::random_values(random, dtype, kCount, kind);
      std::vector<float> out(kCount);
      kernel::to_f32(dtype, bytes, out);
      const auto expected = fixtures::reference_decode(stream_of(dtype), bytes);
      INFO(name_of(dtype));
      REQUIRE(expected.size() == kCount);
      for (std::size_t i = 0; i < kCount; ++i) {
        if (!same_bits(out[i], expected[i])) FAIL("value " << i << ": " << out[i] << " and " << expected[i]);
      }
    }
  }
}

TEST_CASE("the low half of a block lies in low nibbles, the high half in high ones", "[unit]") {
  std::vector<std::byte> block(18);
  block[1] = std::byte{0x3C};  // d = 1
  block[2] = std::byte{0xF1};  // element 0: 1, element 16: 15
  std::vector<float> out(32);
  kernel::to_f32(DType::kQ4_0, block, out);
  CHECK(out[0] == 1 - 8);
  CHECK(out[16] == 15 - 8);
  kernel::to_f32(DType::kIq4Nl, block, out);
  CHECK(out[0] == -104);
  CHECK(out[16] == 113);
}

TEST_CASE("the fifth bits of q5 stand in a word, element by element", "[unit]") {
  std::vector<std::byte> block(22);
  block[1] = std::byte{0x3C};
  block[2] = std::byte{0x01};  // element 0
  block[5] = std::byte{0x80};  // element 31
  std::vector<float> out(32);
  kernel::to_f32(DType::kQ5_0, block, out);
  CHECK(out[0] == 0);
  CHECK(out[1] == -16);
  CHECK(out[31] == 0);
}

TEST_CASE("non-finite values are counted: elements, or whole blocks of a bad scale", "[unit]") {
  for (DType dtype : kTypes) {
    fixtures::Random random(name_of(dtype));
    const auto bytes = fixtures::random_values(random, dtype, kCount, ValueKind::kNonFinite);
    std::vector<float> out(kCount);
    kernel::to_f32(dtype, bytes, out);
    std::size_t elements = 0;
    for (float value : out) elements += std::isfinite(value) ? 0 : 1;
    const std::size_t counted = count_nonfinite(dtype, bytes);
    INFO(name_of(dtype));
    CHECK(counted > 0);
    CHECK(counted >= elements);  // an infinite scale of a zero is a NaN, so blocks count whole
    if (dtype_info(dtype)->block_elements == 1) CHECK(counted == elements);
    const auto finite = fixtures::random_values(random, dtype, kCount, ValueKind::kSmooth);
    CHECK(count_nonfinite(dtype, finite) == 0);
  }
}
