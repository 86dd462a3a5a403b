#pragma once

#include <cstdint>
#include <string_view>

namespace cachecard::llama_cpp {

/// A tensor type of model files (a KV cache has fewer, see cachecard/types.hpp).
struct GgmlType {
  std::uint32_t type;
  std::string_view name;
  std::uint32_t block_elements;
  std::uint32_t block_bytes;
};

/// nullptr for a number that names no type here.
const GgmlType* ggml_type(std::uint32_t type) noexcept;

/// Name of general.file_type, as model files carry it ("Q4_K_M"); empty for unknown numbers.
std::string_view file_type_name(std::uint64_t file_type) noexcept;

}  // namespace cachecard::llama_cpp
