// ggml's own quantisers against ours, on the CPU that runs this.
#include <ggml-cpu.h>
#include <ggml.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstring>

#include "../converters/block_values.hpp"
#include "llama_cpp/block_encoder.hpp"

using namespace cachecard;

namespace {

using Bytes = std::vector<std::byte>;

Bytes ours(DType dtype, std::span<const float> values) {
  const DTypeInfo& info = *dtype_info(dtype);
  Bytes out(values.size() / info.block_elements * info.block_bytes);
  llama_cpp::encode_blocks(dtype, values, out);
  return out;
}

/// The function that the cache's set_rows calls for a type.
Bytes of_the_cache(DType dtype, std::span<const float> values) {
  const auto* traits = ggml_get_type_traits_cpu(static_cast<ggml_type>(dtype));
  Bytes out(ggml_row_size(static_cast<ggml_type>(dtype), static_cast<std::int64_t>(values.size())));
  traits->from_float(values.data(), out.data(), static_cast<std::int64_t>(values.size()));
  return out;
}

Bytes of_the_reference(DType dtype, std::span<const float> values) {
  const auto* traits = ggml_get_type_traits(static_cast<ggml_type>(dtype));
  Bytes out(ggml_row_size(static_cast<ggml_type>(dtype), static_cast<std::int64_t>(values.size())));
  traits->from_float_ref(values.data(), out.data(), static_cast<std::int64_t>(values.size()));
  return out;
}

/// Blocks of zero scale: ggml's iq4_nl leaves in them the codes of the block before.
void clear_codes_of_zero(Bytes& bytes) {
  for (std::size_t at = 0; at < bytes.size(); at += 18) {
    if (bytes[at] == std::byte{0} && bytes[at + 1] == std::byte{0}) {
      std::fill_n(bytes.begin() + static_cast<std::ptrdiff_t>(at) + 2, 16, std::byte{0});
    }
  }
}

std::size_t differing(const Bytes& a, const Bytes& b) {
  std::size_t count = 0;
  for (std::size_t i = 0; i < a.size(); ++i) count += a[i] != b[i] ? 1 : 0;
  return count;
}

}  // namespace

TEST_CASE("every block type is ggml's, byte for byte", "[runtime]") {
  ggml_cpu_init();
  const std::vector<float> values = llama_cpp::test::block_values();
  for (const DType dtype :
       {DType::kQ8_0, DType::kQ4_0, DType::kQ4_1, DType::kQ5_0, DType::kQ5_1, DType::kIq4Nl}) {
    INFO(name_of(dtype));
    Bytes own = ours(dtype, values);
    Bytes cache = of_the_cache(dtype, values);
    Bytes reference = of_the_reference(dtype, values);
    if (dtype == DType::kIq4Nl) {
      for (Bytes* bytes : {&own, &cache, &reference}) clear_codes_of_zero(*bytes);
    }
    CHECK(differing(own, cache) == 0);
    // q8_0's reference divides and rounds in another way; the others are what the cache calls.
    if (dtype != DType::kQ8_0) CHECK(differing(own, reference) == 0);
  }
}

TEST_CASE("q8_0 is the cache's, which is not quite the reference's", "[runtime]") {
  ggml_cpu_init();
  const std::vector<float> values = llama_cpp::test::block_values();
  const std::size_t count =
      differing(of_the_cache(DType::kQ8_0, values), of_the_reference(DType::kQ8_0, values));
  CHECK(count > 0);
  CHECK(count < values.size() / 1000);
}
