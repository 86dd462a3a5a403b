#include "head_order.hpp"

#include <cmath>

namespace cachecard::llama_calibrate {
namespace {

std::uint32_t runtime_channel(const HeadOrder& order, std::uint32_t c) {
  if (order.pairing == RopePairing::kNone) return c;
  if (c >= order.rotated_width) {
    const std::uint32_t rest = c - order.rotated_width;
    return rest < order.rotated_offset ? rest : rest + order.rotated_width;
  }
  if (order.pairing == RopePairing::kInterleaved) return order.rotated_offset + c;
  return order.rotated_offset + c / 2 + (c % 2) * (order.rotated_width / 2);
}

}  // namespace

HeadOrder head_order(std::uint32_t head_count, std::uint32_t head_dim, const RopeTable* table) {
  HeadOrder order;
  order.head_count = head_count;
  order.head_dim = head_dim;
  if (table == nullptr) return order;
  order.pairing = static_cast<RopePairing>(table->record.pairing);
  order.rotated_offset = table->record.rotated_offset;
  order.rotated_width = table->record.rotated_width;
  order.magnitude = table->record.magnitude;
  order.inverse_frequencies = table->inverse_frequencies;
  return order;
}

std::vector<float> turns_of(const HeadOrder& order, std::size_t count) {
  std::vector<float> turns;
  turns.reserve(count * order.inverse_frequencies.size() * 2);
  for (std::size_t position = 0; position < count; ++position) {
    for (const double frequency : order.inverse_frequencies) {
      const double theta = static_cast<double>(position) * frequency;
      turns.push_back(static_cast<float>(order.magnitude * std::cos(theta)));
      turns.push_back(static_cast<float>(order.magnitude * std::sin(theta)));
    }
  }
  return turns;
}

void to_card_order(const HeadOrder& order, std::span<const float> row, std::span<const float> turn, std::span<float> out) {
  const auto unscale = static_cast<float>(1.0 / (order.magnitude * order.magnitude));
  for (std::uint32_t head = 0; head < order.head_count; ++head) {
    const std::size_t at = std::size_t{head} * order.head_dim;
    for (std::uint32_t c = 0; c < order.head_dim; ++c) out[at + c] = row[at + runtime_channel(order, c)];
    for (std::size_t i = 0; i < turn.size(); i += 2) {
      const float x = out[at + i];
      const float y = out[at + i + 1];
      out[at + i] = (x * turn[i] + y * turn[i + 1]) * unscale;
      out[at + i + 1] = (y * turn[i] - x * turn[i + 1]) * unscale;
    }
  }
}

void from_card_order(const HeadOrder& order, std::span<const float> row, std::span<const float> turn, std::span<float> out) {
  for (std::uint32_t head = 0; head < order.head_count; ++head) {
    const std::size_t at = std::size_t{head} * order.head_dim;
    for (std::uint32_t c = turn.empty() ? 0 : order.rotated_width; c < order.head_dim; ++c) {
      out[at + runtime_channel(order, c)] = row[at + c];
    }
    for (std::uint32_t i = 0; i < turn.size(); i += 2) {
      const float x = row[at + i];
      const float y = row[at + i + 1];
      out[at + runtime_channel(order, i)] = x * turn[i] - y * turn[i + 1];
      out[at + runtime_channel(order, i + 1)] = y * turn[i] + x * turn[i + 1];
    }
  }
}

}  // namespace cachecard::llama_calibrate
