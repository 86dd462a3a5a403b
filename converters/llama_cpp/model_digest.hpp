#pragma once

#include <optional>
#include <string>

#include "cachecard/io.hpp"
#include "cachecard/records.hpp"
#include "gguf_model.hpp"

namespace cachecard::llama_cpp {

/// Digest of what ran: XXH3-128 over the tensors in ascending name order.
/// Spec: converters/llama_cpp/IDENTITY.md. nullopt: no tensors, a type unknown here, or one file of
/// a split model. Errors: io, truncated
Result<std::optional<Digest128>> weights_digest(const ByteSource& source, const GgufFile& file);

/// The same through a cache in folder, keyed by the file's device, inode, size, mtime and ctime.
/// A cache that is damaged or cannot be written is as good as none.
Result<std::optional<Digest128>> cached_weights_digest(const std::string& path, const ByteSource& source,
                                                       const GgufFile& file, const std::string& folder);

}  // namespace cachecard::llama_cpp
