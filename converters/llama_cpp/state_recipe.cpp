#include "state_recipe.hpp"

namespace cachecard::llama_cpp {
namespace {

StateRecipe start_recipe(const StateFile& state) {
  StateRecipe recipe;
  SourceLayoutHeader& record = recipe.layout.record;
  record.family = static_cast<std::uint16_t>(SourceFamily::kLlamaCpp);
  record.container = static_cast<std::uint16_t>(state.container);
  // A memory blob has no version; the layout that it was understood by is worth as much.
  record.container_version =
      state.version != 0 ? state.version : (state.layout == StateLayout::k11_4 ? 4 : 3);
  record.stream_count = 1;
  record.file_size = state.file_size;
  return recipe;
}

void add_literal(StateRecipe& recipe, std::uint64_t begin, std::uint64_t end) {
  if (begin == end) return;
  SourceLayoutHeader& record = recipe.layout.record;
  recipe.literals.push_back({begin, record.literal_size, end - begin});
  record.literal_size += end - begin;
  SourceOperation operation;
  operation.operation = static_cast<std::uint8_t>(SourceOp::kLiteral);
  operation.size = end - begin;
  recipe.layout.operations.push_back(operation);
}

void finish(StateRecipe& recipe) {
  SourceLayoutHeader& record = recipe.layout.record;
  record.operation_count = static_cast<std::uint32_t>(recipe.layout.operations.size());
  record.order_run_count = recipe.layout.order_runs.size();
}

/// Appends the tensors of one kind and returns where the last one ended.
std::uint64_t add_tensors(StateRecipe& recipe, std::uint64_t position, const CacheBlock& block, bool values,
                          std::uint32_t order, const std::vector<std::uint32_t>& layers) {
  const auto& tensors = values ? block.values : block.keys;
  const StreamKind kind = values                 ? StreamKind::kValue
                          : block.values.empty() ? StreamKind::kLatent
                                                 : StreamKind::kKey;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    add_literal(recipe, position, tensors[i].data_offset);
    SourceOperation operation;
    operation.operation = static_cast<std::uint8_t>(SourceOp::kRows);
    operation.stream = static_cast<std::uint8_t>(kind);
    operation.transposed = values && block.v_trans ? 1 : 0;
    operation.layer = layers[i];
    operation.order = order;
    operation.size = block.cell_count * tensors[i].row_bytes;
    recipe.layout.operations.push_back(operation);
    position = tensors[i].data_offset + operation.size;
  }
  return position;
}

}  // namespace

StateRecipe make_recipe(const StateFile& state, const TokenOrders& orders,
                        const std::vector<std::vector<std::uint32_t>>& layers) {
  StateRecipe recipe = start_recipe(state);
  SourceLayoutHeader& record = recipe.layout.record;
  record.stream_count = state.caches[0].n_stream;
  record.stream_index = state.caches[0].stream_index;
  record.v_transposed = state.caches[0].v_trans ? 1 : 0;
  record.order_count = static_cast<std::uint32_t>(orders.caches.size());
  std::uint64_t position = 0;
  for (std::size_t i = 0; i < state.caches.size(); ++i) {
    const auto order = static_cast<std::uint32_t>(i);
    position = add_tensors(recipe, position, state.caches[i], false, order, layers[i]);
    position = add_tensors(recipe, position, state.caches[i], true, order, layers[i]);
    const auto runs = order_runs(orders.caches[i], order);
    recipe.layout.order_runs.insert(recipe.layout.order_runs.end(), runs.begin(), runs.end());
  }
  add_literal(recipe, position, state.file_size);
  finish(recipe);
  return recipe;
}

StateRecipe make_opaque_recipe(const StateFile& state) {
  StateRecipe recipe = start_recipe(state);
  add_literal(recipe, 0, state.payload_offset);
  SourceOperation operation;
  operation.operation = static_cast<std::uint8_t>(SourceOp::kOpaque);
  operation.stream = static_cast<std::uint8_t>(StreamKind::kOpaque);
  operation.layer = 0;
  operation.size = state.file_size - state.payload_offset;
  recipe.layout.operations.push_back(operation);
  finish(recipe);
  return recipe;
}

}  // namespace cachecard::llama_cpp
