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

/// n_rot of a quantised cache of these layers, where rotation is not switched off: K the largest power of two
/// from 64 that divides the head width, V always 64, both only where the layers have one width; 0: not
/// rotated. source: llama-kv-cache.cpp, constructor
std::uint32_t rotation_of(const std::vector<std::uint32_t>& head_dims,
                          const std::vector<std::uint32_t>& layers, bool value);

}  // namespace cachecard::llama_cpp
