#pragma once

#include "foreign_reader.hpp"
#include "state_file.hpp"

namespace cachecard::llama_cpp {

/// What a llama_kv_cache payload does not say about its own layout.
struct CacheShape {
  StateLayout layout = StateLayout::k11_4;
  bool cell_ext = false;
  bool key_only = false;
  bool whole_context = false;  ///< cells list every sequence that they belong to
};

/// Reads one cache's payload: cells, then tensor headers; the data are skipped, not read.
/// Errors: foreign_input, truncated, limit_exceeded, io
Result<CacheBlock> parse_cache_block(ForeignReader& reader, const CacheShape& shape);

/// Model layers whose tensors a cache holds, ascending: all that have one, or one half of a pair.
std::vector<std::uint32_t> layers_of_cache(const ModelFacts& model, std::size_t cache_index);

}  // namespace cachecard::llama_cpp
