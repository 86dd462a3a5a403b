#pragma once

#include <span>
#include <string>
#include <vector>

#include "cachecard/records.hpp"
#include "state_file.hpp"

namespace cachecard::llama_cpp {

/// Which tokens of the card one cache holds, and in which cell each lies.
struct TokenOrder {
  std::uint64_t first_token = 0;
  std::uint64_t token_count = 0;
  /// Cell of token first_token + i; empty where that is cell i.
  std::vector<std::uint32_t> cell_of_token;

  std::uint64_t cell(std::uint64_t index) const {
    return cell_of_token.empty() ? index : cell_of_token[index];
  }
};

/// Position order of a state's tokens (ties, which only M-RoPE has, by cell order).
struct TokenOrders {
  std::vector<TokenOrder> caches;       ///< one for each cache
  std::vector<std::int32_t> positions;  ///< of the first cache, in token order
  bool not_a_prefix = false;            ///< they are not 0, 1, 2, ... (M-RoPE: do not start at 0)
  std::string unordered;                ///< why there is no such order; then the state stays opaque
};

/// Needs: state.caches[0].cell_count > 0, !state.opaque.
TokenOrders order_tokens(const StateFile& state);

/// The cells of an order as runs of consecutive tokens. spec: FORMAT.md#source-layout
std::vector<OrderRun> order_runs(const TokenOrder& order, std::uint32_t order_number);

}  // namespace cachecard::llama_cpp
