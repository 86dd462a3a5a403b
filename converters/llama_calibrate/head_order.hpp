#pragma once

#include <span>
#include <vector>

#include "cachecard/card.hpp"

/// From a runtime's rows of heads to card order and back. spec: CODECS.md#card-order
namespace cachecard::llama_calibrate {

/// Rows of head_count heads, and the rotary embedding on them.
struct HeadOrder {
  std::uint32_t head_count = 0;
  std::uint32_t head_dim = 0;
  RopePairing pairing = RopePairing::kNone;  ///< kNone: no embedding, card order is the runtime's
  std::uint32_t rotated_offset = 0;          ///< in the runtime's head
  std::uint32_t rotated_width = 0;
  double magnitude = 1.0;
  std::vector<double> inverse_frequencies{};  ///< one a pair

  std::size_t width() const { return std::size_t{head_count} * head_dim; }
};

/// Of keys or queries; table nullptr: without rotary embedding.
HeadOrder head_order(std::uint32_t head_count, std::uint32_t head_dim, const RopeTable* table);

/// cos and sin of each pair at positions 0 to count - 1, times the table's magnitude. [position][pair][2]
std::vector<float> turns_of(const HeadOrder& order, std::size_t count);

/// Channels in card order, embedding off. turn: of the row's position, empty where there is none.
/// Needs: row and out have order.width() elements and do not overlap
void to_card_order(const HeadOrder& order, std::span<const float> row, std::span<const float> turn, std::span<float> out);
/// The way back: embedding on, the runtime's channels.
void from_card_order(const HeadOrder& order, std::span<const float> row, std::span<const float> turn, std::span<float> out);

}  // namespace cachecard::llama_calibrate
