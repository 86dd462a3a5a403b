#include "codec/strip_encoder.hpp"

#include <algorithm>
#include <array>

#include "base/bytes.hpp"

namespace cachecard {

using kernel::kStripChannels;

std::size_t quantise(std::span<const kernel::Lane> lanes, std::span<const float> scale,
                     std::span<const kernel::StripToken> tokens, const kernel::StripValues& values, float reach,
                     StripRows& strip, std::span<std::uint8_t> missed) {
  kernel::LaneArrays arrays;
  for (std::size_t c = 0; c < lanes.size(); ++c) {
    arrays.inverse[c] = 1.0f / scale[c];
    for (std::size_t k = 1; k < 3; ++k) arrays.weight[k][c] = lanes[c].weight[k];
  }
  strip.index.resize(tokens.size() * kStripChannels);
  strip.rows.resize(tokens.size() * kStripChannels);
  return kernel::entropy_kernels().quantise_strip(arrays, tokens, values, reach, strip.index.data(), strip.rows.data(),
                                                  missed.empty() ? nullptr : missed.data());
}

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

CodedIndex code_index(const kernel::EntropyTables& tables, kernel::LaneTable table, std::int32_t index) {
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

kernel::StripSymbols StripBuffers::symbols(std::size_t token_count) {
  if (keys_.size() < token_count * kStripChannels) {
    words_.resize(token_count * 2 * kStripChannels + kernel::kWordPadding);
    keys_.resize(token_count * kStripChannels);
    escapes_.resize(token_count * kStripChannels);
  }
  kernel::StripSymbols symbols;
  symbols.words = words_.data();
  symbols.keys = keys_.data();
  symbols.escapes = escapes_.data();
  return symbols;
}

StripPayload encode_strip(std::span<const kernel::Lane> lanes, std::span<const kernel::StripToken> tokens,
                          std::span<const std::int16_t> index, StripBuffers& buffers) {
  kernel::StripSymbols symbols = buffers.symbols(tokens.size());
  kernel::entropy_kernels().encode_strip(lanes, tokens, index.data(), symbols);
  ByteWriter out;
  const std::size_t even = (lanes.size() + 1) / 2;
  const std::span<const std::uint32_t> states = symbols.states;
  out.numbers(states.first(even));
  out.numbers(states.subspan(kernel::kStripPairs, lanes.size() - even));
  const auto put = [&out]<class Number>(Number* first, std::size_t count) {
    std::reverse(first, first + count);
    out.numbers(std::span<const Number>(first, count));
  };
  put(symbols.keys, symbols.escape_count);
  put(symbols.escapes, symbols.escape_count);
  put(symbols.words, symbols.word_count);
  return {out.take(), static_cast<std::uint32_t>(symbols.word_count), static_cast<std::uint32_t>(symbols.escape_count)};
}

StripPayload encode_strip(std::span<const kernel::Lane> lanes, std::span<const kernel::StripToken> tokens,
                          std::span<const std::int16_t> index) {
  StripBuffers buffers;
  return encode_strip(lanes, tokens, index, buffers);
}

}  // namespace cachecard
