#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cache_layout.hpp"
#include "pt_file.hpp"
#include "strided_rows.hpp"

namespace cachecard::pytorch {

/// One tensor [1, heads, tokens, head_dim] of a file.
struct PtTensor {
  std::uint64_t offset = 0;          ///< of its first value in the file
  std::string storage;               ///< the container's name for its storage
  std::uint64_t storage_offset = 0;  ///< of its first value in the storage, in values
  StridedShape shape;
};

/// A cache as a .pt holds it: what it says of itself, nothing added.
struct PtCache {
  PtContainer container = PtContainer::kZip;
  std::vector<LayerShape> shapes;
  std::vector<PtTensor> keys;
  std::vector<PtTensor> values;
  std::vector<std::int32_t> token_ids;  ///< empty: the file has none
  std::vector<std::int32_t> positions;  ///< empty: the file has none
  std::optional<RopeState> rope_state;  ///< files that CacheCard wrote say it
  RopePairing rope_pairing = RopePairing::kNone;
  std::vector<std::string> unused;  ///< keys of the outer dict that were not needed
};

/// Finds the cache in a file of torch.save: a tuple or list of (key, value) pairs, a dict of key_cache
/// and value_cache, transformers' DynamicCache (by its attributes; no class is ever made), or a dict
/// whose past_key_values is one of these, beside token_ids (or input_ids) and positions.
/// Errors: foreign_input (what, where, found, allowed), limit_exceeded, and open_pt's
Result<PtCache> read_pt_cache(const ByteSource& source);

}  // namespace cachecard::pytorch
