#pragma once

#include <vector>

#include "cachecard/card.hpp"
#include "state_file.hpp"
#include "token_order.hpp"

namespace cachecard::llama_cpp {

/// Bytes of the foreign file that become literals, in file order.
struct LiteralRange {
  std::uint64_t file_offset = 0;
  std::uint64_t literal_offset = 0;
  std::uint64_t size = 0;
};

/// How a card's parts make the foreign file again, byte for byte.
struct StateRecipe {
  SourceLayout layout;
  std::vector<LiteralRange> literals;
};

/// Everything that is no tensor data is literal: header, cells, tensor headers, trailing bytes.
/// layers[i]: model layers of cache i. Spec: FORMAT.md#source-layout
StateRecipe make_recipe(const StateFile& state, const TokenOrders& orders,
                        const std::vector<std::vector<std::uint32_t>>& layers);

/// The header as literals, the rest as one opaque stream.
StateRecipe make_opaque_recipe(const StateFile& state);

}  // namespace cachecard::llama_cpp
