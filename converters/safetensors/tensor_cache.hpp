#pragma once

#include <map>
#include <memory>
#include <string>

#include "cachecard/writer.hpp"
#include "torch/cache_layout.hpp"
#include "torch/pt_cache.hpp"

namespace cachecard::safetensors {

/// How tensors are called. source: kvcdn-cli src/local/kv_io.rs; mlx-lm models/cache.py,
/// mlx.utils.tree_flatten
enum class Naming {
  kMlx,    ///< "3.0" and "3.1": keys and values of layer 3; "3.2": how many tokens they hold
  kKvcdn,  ///< "k_3" and "v_3"
};

/// A cache in a safetensors file: tensors as a .pt has them, and what the file says beside them.
struct TensorCache {
  Naming naming = Naming::kMlx;
  pytorch::PtCache tensors;
  std::map<std::string, std::string> metadata;  ///< what the user of mlx-lm put in: "model"
};

/// Errors: foreign_input (what, where, found, allowed; quantised and rotating caches by name), and
/// read_safetensors'
Result<TensorCache> read_tensor_cache(const ByteSource& source);

/// The cache as a source of a card, with the text that its tokens were made of (empty: unknown).
/// Owns: copies, not the bytes; source must outlive it.   Errors: as pytorch::pt_source
Result<std::unique_ptr<CacheSource>> tensor_source(const ByteSource& source, pytorch::PtCache tensors,
                                                   pytorch::CacheFacts facts, std::string text);

}  // namespace cachecard::safetensors
