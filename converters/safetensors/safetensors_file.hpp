#pragma once

#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "cachecard/io.hpp"
#include "cachecard/types.hpp"

namespace cachecard::safetensors {

/// A file that is not understood or not accepted: what, where, found, allowed.
inline Error tensors_error(std::string_view field, std::string detail) {
  return {ErrorCode::kForeignInput, kNoOffset, std::string(field), std::move(detail)};
}

/// A name out of a file for a message: quoted, printable, at most 80 characters.
std::string shown(std::string_view name);

struct SafeTensor {
  std::string name;
  std::string dtype;  ///< as in the file: "F16"
  std::vector<std::uint64_t> shape;
  std::uint64_t offset = 0;  ///< in the file
  std::uint64_t size = 0;    ///< bytes
};

struct SafetensorsFile {
  std::vector<SafeTensor> tensors;  ///< in the order of their data
  std::map<std::string, std::string> metadata;
};

/// Most bytes of a header. A cache's takes a hundred for each tensor; safetensors itself allows 100,000,000.
inline constexpr std::uint64_t kMaxHeaderBytes = 2u << 20;

/// Whether the first bytes look like a header's length and the header's first character.
bool looks_like_safetensors(std::span<const std::byte> head);

/// Reads the header. Tensors must tile the data: no overlap, no gap, nothing behind them; no name occurs
/// twice. Errors: foreign_input, truncated, limit_exceeded, io
Result<SafetensorsFile> read_safetensors(const ByteSource& source);

/// nullopt for a type that no cache holds.
std::optional<DType> dtype_of(std::string_view name);
/// "F32", "F16", "BF16". Needs: one of these
std::string_view name_of_dtype(DType dtype);

}  // namespace cachecard::safetensors
