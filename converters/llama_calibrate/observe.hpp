#pragma once

#include "cache_rows.hpp"
#include "loaded_model.hpp"

/// What a model's attention sees of a text.
namespace cachecard::llama_calibrate {

/// In card order, embedding off. [token][head x head_dim]
struct ObservedLayer {
  std::uint32_t layer = 0;
  std::uint32_t query_head_count = 0;
  float attention_scale = 0.0f;
  StreamRecord key;
  StreamRecord value;
  std::uint32_t pair_count = 0;  ///< channels that rotate in pairs come first
  Rows keys;
  Rows values;
  Rows queries;
};

struct Observed {
  CardHeader header;
  std::vector<ObservedLayer> layers;  ///< ascending
};

/// Decodes texts and looks at every layer's attention as it is computed.
class Observer {
 public:
  /// model, facts and ticker must outlive it. Errors: out_of_memory
  static Result<std::unique_ptr<Observer>> create(llama_model* model, const llama_cpp::ModelFacts& facts,
                                                  std::uint32_t most_tokens, std::uint32_t threads, Ticker& ticker);
  /// Layers from first_layer to end_layer - 1 that have keys and values.
  /// Errors: those of decode_text and read_state; unsupported_feature (attention that is not seen)
  Result<Observed> observe(std::span<const llama_token> tokens, std::uint32_t first_layer, std::uint32_t end_layer);

 private:
  /// Of one layer, as attention takes them: embedding on, scaled as the model likes.
  struct Seen {
    std::uint32_t head_count = 0;
    std::uint32_t head_dim = 0;
    float scale = 0.0f;
    bool plain = true;  ///< nothing but scaled products and softmax
    std::vector<float> rows;
  };

  Observer(const llama_cpp::ModelFacts& facts, Ticker& ticker) : facts_(facts), ticker_(ticker) {}
  static bool on_node(ggml_tensor* node, bool asked, void* self);
  void take(const ggml_tensor* attention);

  const llama_cpp::ModelFacts& facts_;
  Ticker& ticker_;
  ContextPtr context_;
  std::vector<Seen> seen_;  ///< by layer
};

}  // namespace cachecard::llama_calibrate
