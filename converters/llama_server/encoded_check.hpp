#pragma once

#include <functional>

#include "cachecard/reader.hpp"
#include "cachecard/writer.hpp"

namespace cachecard::llama_server {

/// Decodes a card that was just written and compares every token id, position, row and opaque byte
/// with the source that it was made of. Returns how many values are NaN or infinite.
/// Memory: two chunks and scratch for each task at once.
/// Errors: internal (naming layer, stream and token where they differ), interrupted, the reader's
Result<std::uint64_t> check_encoded(const RandomSink& sink, std::uint64_t file_size,
                                    const CacheSource& source, const ParallelFor& parallel,
                                    const std::function<bool()>& interrupted);

}  // namespace cachecard::llama_server
