#pragma once

#include <vector>

#include "cachecard/card.hpp"
#include "state_file.hpp"
#include "token_order.hpp"

namespace cachecard::llama_cpp {

/// Where a stream's rows lie in the foreign file.
struct StreamPlace {
  std::size_t cache = 0;
  TensorBlock tensor;
  bool transposed = false;
};

/// Streams of a card, ascending by (layer, stream), and their places, one for each.
struct StateStreams {
  std::vector<StreamRecord> streams;
  std::vector<PartRecord> parts;
  std::vector<StreamPlace> places;
};

/// Fits the tensors of a state to the model's layers.
/// Errors: foreign_input naming layer and sizes where they do not fit
Result<StateStreams> make_streams(const StateFile& state, const ModelFacts& model, const TokenOrders& orders);

}  // namespace cachecard::llama_cpp
