#pragma once

#include <string>
#include <string_view>

#include "cachecard/card.hpp"

/// The convention of spec/GGUF-KV.md: names of keys and tensors.
namespace cachecard::gguf {

inline constexpr std::string_view kCacheType = "kv-cache";  ///< general.type
inline constexpr std::uint32_t kConventionVersion = 1;      ///< kv_cache.version

inline constexpr std::string_view kFramesTensor = "cachecard.frames";
inline constexpr std::string_view kSectionsTensor = "cachecard.sections";

/// "kv_cache.stream.layer": the key of a record's field.
template <class Record>
std::string field_key(std::string_view field) {
  return "kv_cache." + std::string(Layout<Record>::name) + "." + std::string(field);
}

inline std::string identity_key(std::string_view field) { return "kv_cache.identity." + std::string(field); }

/// "cache_k_l0", as llama.cpp calls its own; latent and opaque streams by name.
inline std::string tensor_name(const StreamRecord& stream) {
  const auto kind = static_cast<StreamKind>(stream.stream);
  const std::string_view word = kind == StreamKind::kKey     ? "k"
                                : kind == StreamKind::kValue ? "v"
                                                             : name_of(kind);
  return "cache_" + std::string(word) + "_l" + std::to_string(stream.layer);
}

}  // namespace cachecard::gguf
