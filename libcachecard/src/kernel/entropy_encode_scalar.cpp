#include <algorithm>
#include <bit>
#include <cmath>

#include "kernel/entropy_encode.hpp"

namespace cachecard::kernel {
namespace {

/// One token; true where all values are met within half a step, and in reach.
bool quantise_token(const LaneArrays& lanes, const StripToken& token, const float* values, const std::int16_t* reference,
                    float reach, std::int16_t* index, std::int16_t* row) {
  const auto multiplier = static_cast<std::int32_t>(token.multiplier);
  const float inverse_step = 1.0f / static_cast<float>(multiplier);
  float error = 0.0f;
  float farthest = 0.0f;
  for (std::size_t c = 0; c < kStripChannels; ++c) {
    const float target = values[c] * lanes.inverse[c];
    const std::int32_t predicted = reference == nullptr ? 0 : lanes.weight[token.reference][c] * reference[c];
    const float steps = (8.0f * target - static_cast<float>(predicted)) * inverse_step;
    const std::int32_t q = nearest(std::min(std::max(steps, -reach), reach));
    row[c] = row_value(1, predicted, multiplier, q);
    index[c] = static_cast<std::int16_t>(q);
    error = std::max(error, std::abs(target - static_cast<float>(row[c])));
    farthest = std::max(farthest, std::abs(target));
  }
  return error <= largest_error(multiplier) && farthest <= reach;
}

std::size_t quantise_strip(const LaneArrays& lanes, std::span<const StripToken> tokens, const StripValues& values,
                           float reach, std::int16_t* index, std::int16_t* rows, std::uint8_t* missed) {
  std::size_t misses = 0;
  for (std::size_t t = 0; t < tokens.size(); ++t) {
    std::int16_t* row = rows + t * kStripChannels;
    std::int16_t* own = index + t * kStripChannels;
    if (tokens[t].coded == 0) {
      std::fill_n(row, kStripChannels, std::int16_t{0});
      std::fill_n(own, kStripChannels, std::int16_t{0});
      continue;
    }
    const std::int16_t* reference = tokens[t].reference == 0 ? nullptr : row - tokens[t].distance * kStripChannels;
    if (quantise_token(lanes, tokens[t], values.token(t), reference, reach, own, row)) continue;
    ++misses;
    if (missed != nullptr) missed[t] = 1;
  }
  return misses;
}

/// rANS backwards.
class StripWriter {
 public:
  explicit StripWriter(StripSymbols& out) : out_(out) { out.states.fill(kLeastState); }

  void put_low(std::uint32_t state, std::uint32_t bits, std::uint32_t count) {
    std::uint32_t& x = out_.states[state];
    if (x >= 1u << (32 - count)) spill(x);
    x = x << count | bits;
  }
  void put(std::uint32_t state, std::uint32_t coded) {
    std::uint32_t& x = out_.states[state];
    const std::uint32_t frequency = coded & 0xFFFFu;
    if (x >> 20 >= frequency) spill(x);
    x = ((x / frequency) << kTableBits) + x % frequency + (coded >> 16 & 0xFFFu);
  }

 private:
  void spill(std::uint32_t& x) {
    out_.words[out_.word_count++] = static_cast<std::uint16_t>(x);
    x >>= 16;
  }
  StripSymbols& out_;
};

void encode_strip(std::span<const Lane> lanes, std::span<const StripToken> tokens, const std::int16_t* index,
                  StripSymbols& out) {
  const EntropyTables& tables = entropy_tables();
  const auto channels = static_cast<std::uint32_t>(lanes.size());
  const auto channel_of = [](std::uint32_t state) { return state % kStripPairs * 2 + state / kStripPairs; };
  out.word_count = out.escape_count = 0;
  StripWriter writer(out);
  std::array<std::uint32_t, kStripChannels> coded{};
  for (std::size_t t = tokens.size(); t-- > 0;) {
    if (tokens[t].coded == 0) continue;
    const std::int16_t* own = index + t * kStripChannels;
    for (std::uint32_t s = kStripChannels; s-- > 0;) {
      const std::uint32_t c = channel_of(s);
      if (c >= channels) continue;
      const LaneTable table = lane_table(lanes[c].level[tokens[t].reference], tokens[t].shift, lanes[c].shape);
      const std::uint32_t k = table.low_bits;
      const std::int32_t moved = own[c] + (k > 0 ? 1 << (k - 1) : 0);
      const auto place = static_cast<std::uint32_t>((moved >> k) + kLargestSymbol);
      coded[s] = tables.coded[table.table * 64 + std::min(place, 63u)];
      if (k == 0) continue;
      const bool escapes = (coded[s] & EntropyTables::kIsEscape) != 0;
      writer.put_low(s, escapes ? 0 : static_cast<std::uint32_t>(moved) & ((1u << k) - 1), k);
    }
    for (std::uint32_t s = kStripChannels; s-- > 0;) {
      const std::uint32_t c = channel_of(s);
      if (c >= channels) continue;
      writer.put(s, coded[s]);
      if ((coded[s] & EntropyTables::kIsEscape) != 0) add_escape(out, t, s, own[c]);
    }
  }
}

void add_products(std::span<const StripToken> tokens, const StripValues& values, const float* squared_scale,
                  WeightSums& sums) {
  for (std::size_t first = 0; first < tokens.size(); first += kProductBlock) {
    const ProductBlock block(tokens, first);
    for (std::size_t k = 1; k < 3; ++k) {
      for (std::size_t c = 0; c < kStripChannels; ++c) {
        float product = 0.0f;
        float square = 0.0f;
        for (std::size_t i = 0; i < block.count[k]; ++i) {
          const ProductBlock::Item& item = block.items[k][i];
          const float own = values.token(item.token)[c];
          const float other = values.token(item.from)[c];
          const float energy = other * other;
          product += own * other * item.inverse;
          square += (energy + std::min(item.noise * squared_scale[c], energy)) * item.inverse;
        }
        sums.product[k][c] += double{product};
        sums.square[k][c] += double{square};
      }
    }
  }
}

void add_costs(const std::uint16_t* costs, std::span<const CostToken> tokens, const std::int16_t* index,
               const std::uint8_t* first_level, CostSums& sums) {
  for (std::size_t n = 0; n < tokens.size(); ++n) {
    for (std::size_t c = 0; c < kStripChannels; ++c) {
      const std::uint16_t* cost = costs_of(costs, index[tokens[n].token * kStripChannels + c]) + tokens[n].sum + first_level[c];
      for (std::size_t shape = 0; shape < 2; ++shape) {
        for (std::size_t w = 0; w < kCostWindow; ++w) sums[n % 2][c][shape][w] += cost[shape * kCostSums + w];
      }
    }
  }
}

void add_moments(std::span<const float> rows, std::span<const float> origin, double* sums, double* squares) {
  const std::size_t channels = origin.size();
  const std::size_t count = rows.size() / channels;
  for (std::size_t first = 0; first < count; first += kMomentBlock) {
    for (std::size_t c = 0; c < channels; ++c) {
      float sum = 0.0f;
      float square = 0.0f;
      for (std::size_t t = first; t < std::min(count, first + kMomentBlock); ++t) {
        const float v = rows[t * channels + c] - origin[c];
        sum += v;
        square += v * v;
      }
      sums[c] += double{sum};
      squares[c] += double{square};
    }
  }
}

bool row_energy(std::span<const float> row, std::span<const std::uint32_t> group_widths, float* energy,
                std::size_t stride) {
  std::uint32_t most = 0;
  for (const float v : row) most = std::max(most, std::bit_cast<std::uint32_t>(v) & 0x7FFFFFFFu);
  std::size_t unit = 0;
  for (std::size_t at = 0; at < row.size() && energy != nullptr; ++unit) {
    const std::size_t width = group_widths[unit % group_widths.size()];
    std::array<float, kEnergyParts> parts{};
    for (std::size_t c = 0; c < width; ++c) parts[c % kEnergyParts] += row[at + c] * row[at + c];
    energy[unit * stride] = sum_of_parts(parts) / static_cast<float>(width);
    at += width;
  }
  return most < 0x7F800000u;
}

}  // namespace

void add_escape(StripSymbols& out, std::size_t token, std::uint32_t state, std::int16_t index) {
  out.keys[out.escape_count] = static_cast<std::uint32_t>(token * kStripChannels) + state;
  out.escapes[out.escape_count++] = index;
}

ProductBlock::ProductBlock(std::span<const StripToken> tokens, std::size_t first) {
  for (std::size_t t = first; t < std::min(tokens.size(), first + kProductBlock); ++t) {
    const StripToken& token = tokens[t];
    if (token.reference == 0 || token.coded == 0 || tokens[t - token.distance].coded == 0) continue;
    // The reference brings a rounding error of its own steps.
    const float step = static_cast<float>(token.multiplier) * 0x1p-9f;
    const float other_step = static_cast<float>(tokens[t - token.distance].multiplier) * 0x1p-9f;
    items[token.reference][count[token.reference]++] = {t, t - token.distance, 1.0f / (step * step),
                                                        other_step * other_step * (4096.0f / 12.0f)};
  }
}

void put_scalar_encoders(EntropyKernels& set) {
  set.quantise_strip = quantise_strip;
  set.encode_strip = encode_strip;
  set.add_products = add_products;
  set.add_costs = add_costs;
  set.add_moments = add_moments;
  set.row_energy = row_energy;
}

}  // namespace cachecard::kernel
