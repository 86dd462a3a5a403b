#pragma once

#include <memory>

#include "cachecard/writer.hpp"
#include "pt_cache.hpp"

namespace cachecard::pytorch {

/// A cache of a .pt as a source of a card; rows are read on demand. What the file says of token ids
/// and positions fills in what facts leave out; both saying it differently is refused.
/// Owns: copies of cache and facts, not the bytes; source must outlive it.
/// Errors: foreign_input, limit_exceeded
Result<std::unique_ptr<CacheSource>> pt_source(const ByteSource& source, PtCache cache, CacheFacts facts);

/// Fills in token ids and positions that the file lists, as pt_source does.
Status take_lists(const PtCache& cache, CacheFacts& facts);

}  // namespace cachecard::pytorch
