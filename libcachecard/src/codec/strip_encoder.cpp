#include "codec/strip_encoder.hpp"

#include <algorithm>
#include <array>
#include <cmath>

#include "base/bytes.hpp"

namespace cachecard {
namespace {

using kernel::kStripChannels;

/// To the nearest integer, ties to even, without a call.   Needs: |x| < 2^22
float rounded(float x) {
  constexpr float kMagic = 0x1.8p23f;
  return (x + kMagic) - kMagic;
}

constexpr float kMostIndex = 32767.0f;

/// Lane parameters side by side, so that loops over lanes run in vectors.
struct LaneArrays {
  std::array<float, kStripChannels> inverse{};  ///< 64 / step; 0 for a channel that the strip lacks
  std::array<std::array<std::int32_t, kStripChannels>, 3> weight{};
};

LaneArrays arrays_of(std::span<const kernel::Lane> lanes, std::span<const float> scale) {
  LaneArrays arrays;
  for (std::size_t c = 0; c < lanes.size(); ++c) {
    arrays.inverse[c] = 1.0f / scale[c];
    for (std::size_t k = 0; k < 3; ++k) arrays.weight[k][c] = lanes[c].weight[k];
  }
  return arrays;
}

/// One token; true where all values are met within half a step.
bool quantise_token(const LaneArrays& lanes, const kernel::StripToken& token, const float* values,
                    const std::int16_t* reference, std::int16_t* index, std::int16_t* row) {
  const std::int32_t* weight = lanes.weight[token.reference].data();
  const auto multiplier = static_cast<std::int32_t>(token.multiplier);
  const float inverse_step = 1.0f / static_cast<float>(multiplier);
  std::array<float, kStripChannels> error;
  for (std::size_t c = 0; c < kStripChannels; ++c) {
    const float target = values[c] * lanes.inverse[c];
    const std::int32_t predicted = weight[c] * reference[c];
    const float steps = (8.0f * target - static_cast<float>(predicted)) * inverse_step;
    const auto q = static_cast<std::int32_t>(rounded(std::min(std::max(steps, -kMostIndex), kMostIndex)));
    const std::int16_t a = kernel::row_value(1, predicted, multiplier, q);
    index[c] = static_cast<std::int16_t>(q);
    row[c] = a;
    error[c] = std::abs(target - static_cast<float>(a));
  }
  float most = 0.0f;
  for (const float e : error) most = std::max(most, e);
  return most <= static_cast<float>(multiplier) * 0.0625f + 1.0f;
}

}  // namespace

std::size_t quantise(std::span<const kernel::Lane> lanes, std::span<const float> scale,
                     std::span<const kernel::StripToken> tokens, StripRows& strip, std::span<std::uint8_t> missed) {
  static constexpr std::array<std::int16_t, kStripChannels> kNone{};
  const LaneArrays arrays = arrays_of(lanes, scale);
  strip.index.resize(tokens.size() * kStripChannels);
  strip.rows.resize(tokens.size() * kStripChannels);
  std::size_t misses = 0;
  for (std::size_t t = 0; t < tokens.size(); ++t) {
    std::int16_t* row = strip.rows.data() + t * kStripChannels;
    std::int16_t* index = strip.index.data() + t * kStripChannels;
    if (tokens[t].coded == 0) {
      std::fill_n(row, kStripChannels, std::int16_t{0});
      std::fill_n(index, kStripChannels, std::int16_t{0});
      continue;
    }
    const std::int16_t* reference = tokens[t].reference == 0 ? kNone.data() : row - tokens[t].distance * kStripChannels;
    if (quantise_token(arrays, tokens[t], strip.values.data() + t * kStripChannels, reference, index, row)) continue;
    ++misses;
    if (!missed.empty()) missed[t] = 1;
  }
  return misses;
}

namespace {

/// rANS backwards: the decoder takes words and states in the other order.
class StripWriter {
 public:
  StripWriter() { state_.fill(kernel::kLeastState); }

  void put_low(std::uint32_t state, std::uint32_t bits, std::uint32_t count) {
    std::uint32_t& x = state_[state];
    if (x >= 1u << (32 - count)) spill(x);
    x = x << count | bits;
  }
  void put(std::uint32_t state, kernel::EntropyTables::Symbol symbol) {
    std::uint32_t& x = state_[state];
    const std::uint32_t frequency = symbol.frequency;
    if (std::uint64_t{x} >= std::uint64_t{frequency} << 20) spill(x);
    x = ((x / frequency) << kernel::kTableBits) + x % frequency + symbol.first;
  }
  std::uint32_t state(std::uint32_t number) const { return state_[number]; }
  /// In the decoder's order.
  std::vector<std::uint16_t> take_words() {
    std::reverse(words_.begin(), words_.end());
    return std::move(words_);
  }

 private:
  void spill(std::uint32_t& x) {
    words_.push_back(static_cast<std::uint16_t>(x));
    x >>= 16;
  }
  std::array<std::uint32_t, kStripChannels> state_;
  std::vector<std::uint16_t> words_;
};

}  // namespace

void index_of_rows(std::span<const kernel::Lane> lanes, std::span<const kernel::StripToken> tokens,
                   std::span<const std::int16_t> rows, std::span<std::int16_t> index) {
  for (std::size_t t = 0; t < tokens.size(); ++t) {
    const kernel::StripToken& token = tokens[t];
    for (std::size_t c = 0; c < kStripChannels; ++c) {
      const std::size_t at = t * kStripChannels + c;
      index[at] = 0;
      if (token.coded == 0 || c >= lanes.size()) continue;
      const std::int32_t reference = token.reference == 0 ? 0 : rows[at - token.distance * kStripChannels];
      const std::int32_t predicted = lanes[c].weight[token.reference] * reference;
      const auto multiplier = static_cast<std::int32_t>(token.multiplier);
      // The smallest x with w r + m x + 4 >= 8 a; m is at least 8, so no other gives the same row.
      const std::int32_t least = 8 * rows[at] - 4 - predicted;
      const std::int32_t x = least > 0 ? (least + multiplier - 1) / multiplier : -(-least / multiplier);
      // At the lower end of the range the largest does.
      const std::int32_t most = rows[at] == INT16_MIN ? least + 7 : least;
      index[at] = static_cast<std::int16_t>(rows[at] == INT16_MIN ? -((-most + multiplier - 1) / multiplier) : x);
    }
  }
}

namespace {

inline CodedIndex coded_as(const kernel::EntropyTables& tables, kernel::LaneTable table, std::int32_t index) {
  CodedIndex coded;
  coded.table = table;
  const std::uint32_t k = coded.table.low_bits;
  const std::int32_t moved = index + (k > 0 ? 1 << (k - 1) : 0);
  const std::int32_t symbol = moved >> k;
  const bool fits = symbol >= -kernel::kLargestSymbol && symbol <= kernel::kLargestSymbol &&
                    tables.symbols[coded.table.table][static_cast<std::size_t>(symbol + kernel::kLargestSymbol)].frequency > 0;
  coded.symbol = static_cast<std::uint32_t>((fits ? symbol : kernel::kEscape) + kernel::kLargestSymbol);
  if (fits) coded.low = static_cast<std::uint32_t>(moved) & ((1u << k) - 1);
  return coded;
}

}  // namespace

CodedIndex code_index(const kernel::EntropyTables& tables, kernel::LaneTable table, std::int32_t index) {
  return coded_as(tables, table, index);
}

StripPayload encode_strip(std::span<const kernel::Lane> lanes, std::span<const kernel::StripToken> tokens,
                          std::span<const std::int16_t> index) {
  const kernel::EntropyTables& tables = kernel::entropy_tables();
  std::array<std::vector<kernel::LaneTable>, 48> views;  // by class and shift, as they are met
  std::vector<std::uint32_t> channels;  // in the order of states
  for (std::uint32_t half = 0; half < 2; ++half) {
    for (std::uint32_t c = half; c < lanes.size(); c += 2) channels.push_back(c);
  }
  const auto state_of = [](std::uint32_t c) { return c / 2 + (c % 2) * kernel::kStripPairs; };
  StripWriter writer;
  std::vector<std::uint32_t> keys;
  std::vector<std::int16_t> escapes;
  std::array<CodedIndex, kStripChannels> coded;
  for (std::size_t t = tokens.size(); t-- > 0;) {
    if (tokens[t].coded == 0) continue;
    auto& view = views[static_cast<std::size_t>(16 * tokens[t].reference + tokens[t].shift + 8)];
    for (std::size_t c = view.size(); c < lanes.size(); ++c) {
      view.push_back(kernel::lane_table(lanes[c].level[tokens[t].reference], tokens[t].shift, lanes[c].shape));
    }
    std::uint32_t low_bits = 0;
    for (const std::uint32_t c : channels) {
      coded[c] = coded_as(tables, view[c], index[t * kStripChannels + c]);
      low_bits |= coded[c].table.low_bits;
    }
    if (low_bits != 0) {
      for (auto c = channels.rbegin(); c != channels.rend(); ++c) {
        if (coded[*c].table.low_bits > 0) writer.put_low(state_of(*c), coded[*c].low, coded[*c].table.low_bits);
      }
    }
    for (auto c = channels.rbegin(); c != channels.rend(); ++c) {
      writer.put(state_of(*c), tables.symbols[coded[*c].table.table][coded[*c].symbol]);
      if (coded[*c].symbol != kernel::kEscape + kernel::kLargestSymbol) continue;
      keys.push_back(static_cast<std::uint32_t>(t * kStripChannels + state_of(*c)));
      escapes.push_back(index[t * kStripChannels + *c]);
    }
  }
  std::reverse(keys.begin(), keys.end());
  std::reverse(escapes.begin(), escapes.end());
  const std::vector<std::uint16_t> words = writer.take_words();
  ByteWriter out;
  for (const std::uint32_t c : channels) {
    const std::uint32_t state = writer.state(state_of(c));
    out.numbers(std::span(&state, 1));
  }
  out.numbers(std::span<const std::uint32_t>(keys));
  out.numbers(std::span<const std::int16_t>(escapes));
  out.numbers(std::span(words));
  return {out.take(), static_cast<std::uint32_t>(words.size()), static_cast<std::uint32_t>(keys.size())};
}

}  // namespace cachecard
