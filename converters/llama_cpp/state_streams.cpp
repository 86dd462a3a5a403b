#include "state_streams.hpp"

#include <algorithm>

#include "cache_block.hpp"

namespace cachecard::llama_cpp {
namespace {

std::uint32_t at(const std::vector<std::uint32_t>& values, std::uint32_t layer) {
  return layer < values.size() ? values[layer] : 0;
}

Status check_shape(const StreamRecord& stream, const TensorBlock& tensor) {
  const DTypeInfo& info = *dtype_info(tensor.dtype);
  const std::uint64_t elements = row_elements(stream);
  const bool whole = elements != 0 && elements % info.block_elements == 0;
  const std::uint64_t expected = whole ? elements / info.block_elements * info.block_bytes : 0;
  if (whole && expected == tensor.row_bytes) return {};
  return foreign_error(tensor.header_offset, "row_size",
                       std::string(name_of(static_cast<StreamKind>(stream.stream))) + " of layer " +
                           std::to_string(stream.layer) + " has rows of " + std::to_string(tensor.row_bytes) +
                           " bytes; the model's " + std::to_string(stream.kv_head_count) + " heads of " +
                           std::to_string(stream.head_dim) + " as " + std::string(info.name) +
                           (whole ? " take " + std::to_string(expected) : " are no whole blocks") +
                           ": give the --model that wrote the state");
}

struct LayerContext {
  const StateFile& state;
  const ModelFacts& model;
  const TokenOrder& order;
  std::size_t cache;
  std::uint32_t layer;
};

StreamRecord base_stream(const LayerContext& context, StreamKind kind, DType dtype) {
  StreamRecord stream;
  stream.layer = context.layer;
  stream.stream = static_cast<std::uint8_t>(kind);
  stream.dtype = static_cast<std::uint8_t>(dtype);
  stream.kv_head_count = context.model.key_only ? 1 : at(context.model.kv_head_count, context.layer);
  stream.first_token = context.order.first_token;
  stream.token_count = context.order.token_count;
  stream.window = context.cache == 1 ? context.model.sliding_window : 0;
  return stream;
}

void add_parts(const ModelFacts& model, StreamRecord& stream, StateStreams& out) {
  const std::uint32_t rotated = model.rope_dimension_count;
  if (model.rotated_offset == 0 || rotated == 0 || model.rotated_offset + rotated != stream.head_dim) {
    return;
  }
  stream.part_first = static_cast<std::uint32_t>(out.parts.size());
  stream.part_count = 2;
  PartRecord part;
  part.width = model.rotated_offset;
  out.parts.push_back(part);
  part.offset = model.rotated_offset;
  part.width = rotated;
  part.rotated = 1;
  out.parts.push_back(part);
}

StreamRecord key_stream(const LayerContext& context, const TensorBlock& tensor, StateStreams& out) {
  const ModelFacts& model = context.model;
  const StreamKind kind = model.key_only ? StreamKind::kLatent : StreamKind::kKey;
  StreamRecord stream = base_stream(context, kind, tensor.dtype);
  stream.head_dim = at(model.key_head_dim, context.layer);
  const bool rope = model.rope_dimension_count != 0 && (context.layer >= model.layer_has_rope.size() ||
                                                        model.layer_has_rope[context.layer] != 0);
  stream.rope_state = static_cast<std::uint8_t>(rope ? RopeState::kPostRope : RopeState::kNone);
  stream.rope_pairing = static_cast<std::uint8_t>(rope ? model.rope_pairing : RopePairing::kNone);
  // The graph of K-only caches does not rotate, whatever n_rot the file carries.
  const std::uint32_t n_rot = context.state.caches[context.cache].n_rot_k;
  stream.hadamard_size = model.key_only ? 1 : std::max(n_rot, 1u);
  if (rope) add_parts(model, stream, out);
  return stream;
}

StreamRecord value_stream(const LayerContext& context, const TensorBlock& tensor) {
  StreamRecord stream = base_stream(context, StreamKind::kValue, tensor.dtype);
  stream.head_dim = at(context.model.value_head_dim, context.layer);
  stream.hadamard_size = std::max(context.state.caches[context.cache].n_rot_v, 1u);
  return stream;
}

Status add_layer(const LayerContext& context, std::size_t index, StateStreams& out) {
  const CacheBlock& block = context.state.caches[context.cache];
  out.streams.push_back(key_stream(context, block.keys[index], out));
  out.places.push_back({context.cache, block.keys[index], false});
  auto status = check_shape(out.streams.back(), block.keys[index]);
  if (!status || block.values.empty()) return status;
  out.streams.push_back(value_stream(context, block.values[index]));
  out.places.push_back({context.cache, block.values[index], block.v_trans});
  return check_shape(out.streams.back(), block.values[index]);
}

/// Base and sliding layers alternate in the model but not in the file.
void sort_streams(StateStreams& streams) {
  std::vector<std::size_t> order(streams.streams.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return streams.streams[a].layer < streams.streams[b].layer;
  });
  StateStreams sorted;
  sorted.parts = std::move(streams.parts);
  for (const std::size_t i : order) {
    sorted.streams.push_back(streams.streams[i]);
    sorted.places.push_back(streams.places[i]);
  }
  streams = std::move(sorted);
}

}  // namespace

Result<StateStreams> make_streams(const StateFile& state, const ModelFacts& model,
                                  const TokenOrders& orders) {
  StateStreams out;
  for (std::size_t cache = 0; cache < state.caches.size(); ++cache) {
    const CacheBlock& block = state.caches[cache];
    const auto layers = layers_of_cache(model, cache);
    if (layers.size() != block.n_layer) {
      return foreign_error(block.offset, "n_layer",
                           "the cache has " + std::to_string(block.n_layer) + " layers, the model " +
                               std::to_string(layers.size()) + ": give the --model that wrote the state");
    }
    for (std::size_t i = 0; i < layers.size(); ++i) {
      auto status = add_layer({state, model, orders.caches[cache], cache, layers[i]}, i, out);
      if (!status) return status.error();
    }
  }
  sort_streams(out);
  return out;
}

}  // namespace cachecard::llama_cpp
