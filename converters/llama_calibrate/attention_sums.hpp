#pragma once

#include <ggml.h>

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

namespace cachecard::llama_calibrate {

/// The layer whose keys a tensor is or views. source: llama-kv-cache.cpp, constructor
std::optional<std::uint32_t> layer_of_keys(const ggml_tensor* keys);

/// Sums up, layer by layer, how cells of a context are looked at while it decodes: a callback of the graph.
class AttentionSums {
 public:
  /// Of one layer. squares: [kv_head][cell], attention squared.
  struct Layer {
    std::size_t cell_count = 0;
    std::size_t kv_head_count = 0;
    bool plain = true;  ///< nothing but scaled products, a mask and softmax
    std::vector<double> squares;
  };

  void clear() { layers_.clear(); }
  /// nullptr where none of the layer's attention was seen.
  const Layer* find(std::uint32_t layer) const;
  /// For ggml_backend_sched_eval_callback; self: an AttentionSums.
  static bool on_node(ggml_tensor* node, bool asked, void* self);

 private:
  void take(const ggml_tensor* attention);
  std::map<std::uint32_t, Layer> layers_;
};

}  // namespace cachecard::llama_calibrate
