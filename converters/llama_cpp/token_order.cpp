#include "token_order.hpp"

#include <algorithm>
#include <numeric>

namespace cachecard::llama_cpp {
namespace {

TokenOrder sort_cells(const CacheBlock& block) {
  TokenOrder order;
  order.token_count = block.cell_count;
  if (std::is_sorted(block.positions.begin(), block.positions.end())) return order;
  order.cell_of_token.resize(block.cell_count);
  std::iota(order.cell_of_token.begin(), order.cell_of_token.end(), 0u);
  std::stable_sort(order.cell_of_token.begin(), order.cell_of_token.end(),
                   [&](std::uint32_t a, std::uint32_t b) { return block.positions[a] < block.positions[b]; });
  return order;
}

std::vector<std::int32_t> sorted_positions(const CacheBlock& block, const TokenOrder& order) {
  if (order.cell_of_token.empty()) return block.positions;
  std::vector<std::int32_t> positions(block.cell_count);
  for (std::size_t i = 0; i < positions.size(); ++i) {
    positions[i] = block.positions[order.cell_of_token[i]];
  }
  return positions;
}

/// A sliding cache holds the newest tokens. False: it holds others as well, or with gaps.
bool place_sliding(const CacheBlock& block, const std::vector<std::int32_t>& positions, TokenOrder& order) {
  if (block.cell_count == 0 || block.cell_count > positions.size()) return false;
  order.first_token = positions.size() - block.cell_count;
  for (std::size_t i = 0; i < block.cell_count; ++i) {
    if (block.positions[order.cell(i)] != positions[order.first_token + i]) return false;
  }
  return true;
}

}  // namespace

TokenOrders order_tokens(const StateFile& state) {
  TokenOrders orders;
  const CacheBlock& base = state.caches[0];
  orders.caches.push_back(sort_cells(base));
  orders.positions = sorted_positions(base, orders.caches[0]);
  const auto& positions = orders.positions;
  if (positions.front() < 0) {
    orders.unordered = "cells have negative positions";
    return orders;
  }
  if (!base.cell_ext && std::adjacent_find(positions.begin(), positions.end()) != positions.end()) {
    orders.unordered = "several cells have one position";
    return orders;
  }
  orders.not_a_prefix =
      positions.front() != 0 ||
      (!base.cell_ext && positions.back() != static_cast<std::int64_t>(positions.size()) - 1);
  for (std::size_t i = 1; i < state.caches.size(); ++i) {
    orders.caches.push_back(sort_cells(state.caches[i]));
    if (!place_sliding(state.caches[i], positions, orders.caches[i])) {
      orders.unordered = "the sliding cache does not hold the newest tokens of the base cache";
      return orders;
    }
  }
  return orders;
}

std::vector<OrderRun> order_runs(const TokenOrder& order, std::uint32_t order_number) {
  const auto first = static_cast<std::uint32_t>(order.first_token);
  const auto count = static_cast<std::uint32_t>(order.token_count);
  if (order.cell_of_token.empty()) return {{order_number, first, count}};
  std::vector<std::uint32_t> token_of_cell(count);
  for (std::uint32_t i = 0; i < count; ++i) token_of_cell[order.cell_of_token[i]] = first + i;
  std::vector<OrderRun> runs;
  for (const std::uint32_t token : token_of_cell) {
    if (!runs.empty() && runs.back().first_token + runs.back().token_count == token) {
      ++runs.back().token_count;
    } else {
      runs.push_back({order_number, token, 1});
    }
  }
  return runs;
}

}  // namespace cachecard::llama_cpp
