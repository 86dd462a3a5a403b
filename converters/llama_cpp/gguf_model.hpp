#pragma once

#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "state_file.hpp"

/// GGUF metadata as far as a KV cache needs it. source: ggml gguf.cpp, docs/gguf.md
namespace cachecard::llama_cpp {

struct GgufTensor {
  std::string name;
  std::vector<std::uint64_t> dims;
  std::uint32_t type = 0;
  std::uint64_t offset = 0;  ///< from the file's start
  std::uint64_t size = 0;
};

struct GgufArray {
  std::uint32_t element_type = 0;
  std::uint64_t count = 0;
  std::uint64_t offset = 0;  ///< of the first element in the file
  std::uint64_t size = 0;    ///< bytes of all elements
};

/// Bytes of a value in the file, without its type.
struct GgufRange {
  std::uint32_t type = 0;
  std::uint64_t offset = 0;
  std::uint64_t size = 0;
};

using GgufValue = std::variant<std::uint64_t, std::int64_t, double, bool, std::string, GgufArray>;

/// Keys and tensor table of a GGUF file. Bounded: every length is checked before it allocates.
struct GgufFile {
  std::uint32_t version = 0;
  std::map<std::string, GgufValue> keys;
  std::map<std::string, GgufRange> ranges;  ///< where each key's value lies
  std::vector<GgufTensor> tensors;
  std::uint64_t alignment = 32;
  std::uint64_t data_offset = 0;  ///< where tensor data begins
  std::uint64_t file_size = 0;

  std::optional<std::uint64_t> u64(const std::string& key) const;
  std::optional<double> f64(const std::string& key) const;
  std::optional<std::string> text(const std::string& key) const;
};

/// Errors: foreign_input, truncated, limit_exceeded, io
Result<GgufFile> read_gguf(const ByteSource& source);

/// A value that a runtime was told to use instead of the file's.
struct KeyOverride {
  std::string name;  ///< behind the architecture's name: "rope.freq_base"
  GgufValue value;
};

struct ModelOptions {
  std::vector<KeyOverride> overrides{};
  bool weights_digest = true;  ///< read and digest every tensor (cached by the caller)
  std::string cache_folder;    ///< for digests, keyed by device, inode, size, mtime, ctime; empty: none
};

/// Geometry, RoPE and identity of a model.
/// Errors: as read_gguf; foreign_input for an architecture whose RoPE pairing is not known is *not*
///         raised: pairing stays kNone and module kOther where not known.
Result<ModelFacts> read_model(const std::string& gguf_path, const ModelOptions& options = {});

/// The same from scalar keys alone, as a running model tells them: no digests, no arrays, no RoPE factors.
/// Errors: as read_model
Result<ModelFacts> facts_of_keys(GgufFile file, const ModelOptions& options = {});

}  // namespace cachecard::llama_cpp
