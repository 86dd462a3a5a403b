#include <cmath>
#include <cstring>

#include "kernel/entropy_encode.hpp"
#include "kernel/floats.hpp"

namespace cachecard::kernel {
namespace {

/// State number of a channel: even ones first.
std::uint32_t state_of(std::uint32_t channel) { return channel / 2 + (channel % 2) * kStripPairs; }

/// A strip that is being decoded, state by state in the order of its words.
class StripDecoder {
 public:
  explicit StripDecoder(const Strip& strip) : strip_(strip) {
    for (std::uint32_t half = 0; half < 2; ++half) {
      for (std::uint32_t c = half; c < strip.channels; c += 2) channel_[active_++] = c;
    }
    for (std::uint32_t i = 0; i < active_; ++i) state_[i] = strip.states[i];
  }

  /// False where a symbol and the list of escapes contradict each other.
  bool token(const StripToken& token, std::uint32_t number, const std::int16_t* reference, std::int16_t* row) {
    std::array<std::int32_t, kStripChannels> symbol;
    std::array<LaneTable, kStripChannels> table;
    for (std::uint32_t i = 0; i < active_; ++i) {
      const Lane& lane = strip_.lanes[channel_[i]];
      table[i] = lane_table(lane.level[token.reference], token.shift, lane.shape);
      const std::uint32_t entry = tables_.slots[table[i].table * kTableSlots + (state_[i] & (kTableSlots - 1))];
      symbol[i] = static_cast<std::int32_t>(entry) >> 24;
      state_[i] = (entry >> 12 & 0xFFFu) * (state_[i] >> kTableBits) + (entry & 0xFFFu);
      refill(i);
    }
    for (std::uint32_t i = 0; i < active_; ++i) {
      if (!index(i, table[i].low_bits, number, symbol[i])) return false;
      const std::uint32_t c = channel_[i];
      const std::int32_t weight = token.reference == 0 ? 0 : strip_.lanes[c].weight[token.reference];
      row[c] = row_value(weight, reference[c], token.multiplier, symbol[i]);
    }
    return true;
  }

  std::uint32_t words_used() const { return used_; }
  std::size_t escapes_used() const { return escape_; }
  bool at_end() const {
    for (std::uint32_t i = 0; i < active_; ++i) {
      if (state_[i] != kLeastState) return false;
    }
    return true;
  }

 private:
  void refill(std::uint32_t i) {
    if (state_[i] < kLeastState) state_[i] = state_[i] << 16 | strip_.words[used_++];
  }

  /// symbol to index: raw low bits and escapes.
  bool index(std::uint32_t i, std::uint32_t low_bits, std::uint32_t token, std::int32_t& symbol) {
    std::int32_t low = 0;
    if (low_bits > 0) {
      low = static_cast<std::int32_t>(state_[i] & ((1u << low_bits) - 1)) - (1 << (low_bits - 1));
      state_[i] >>= low_bits;
      refill(i);
    }
    const std::uint32_t key = token * kStripChannels + state_of(channel_[i]);
    const bool listed = escape_ < strip_.escape_keys.size() && strip_.escape_keys[escape_] == key;
    if (listed != (symbol == kEscape)) return false;
    symbol = listed ? strip_.escapes[escape_++] : symbol * (1 << low_bits) + low;
    return true;
  }

  const Strip& strip_;
  const EntropyTables& tables_ = entropy_tables();
  std::array<std::uint32_t, kStripChannels> channel_{};  ///< by place in the order of states
  std::array<std::uint32_t, kStripChannels> state_{};
  std::uint32_t active_ = 0;
  std::uint32_t used_ = 0;
  std::size_t escape_ = 0;
};

StripOutcome decode_strip(const Strip& strip, std::span<const StripToken> tokens, std::int16_t* rows) {
  static constexpr std::array<std::int16_t, kStripChannels> kNoReference{};
  StripDecoder decoder(strip);
  for (std::uint32_t t = 0; t < tokens.size(); ++t) {
    std::int16_t* row = rows + std::size_t{t} * kStripChannels;
    std::memset(row, 0, kStripChannels * sizeof(*row));
    if (tokens[t].coded == 0) continue;
    const std::int16_t* reference = tokens[t].reference == 0
                                        ? kNoReference.data()
                                        : row - std::size_t{tokens[t].distance} * kStripChannels;
    if (!decoder.token(tokens[t], t, reference, row)) return StripOutcome::kEscapes;
    if (decoder.words_used() > strip.word_count) return StripOutcome::kWordsShort;
  }
  if (decoder.words_used() < strip.word_count) return StripOutcome::kWordsLeft;
  if (!decoder.at_end()) return StripOutcome::kEndState;
  return decoder.escapes_used() == strip.escape_keys.size() ? StripOutcome::kWhole : StripOutcome::kEscapes;
}

void decode_strips(std::span<StripTask> tasks) {
  for (StripTask& task : tasks) task.outcome = decode_strip(task.strip, task.tokens, task.rows);
}

void store_value(std::byte* at, DType dtype, float value) {
  if (dtype == DType::kF32) {
    std::memcpy(at, &value, sizeof(value));
    return;
  }
  const std::uint16_t half = dtype == DType::kF16 ? f16_from_f32(value) : bf16_from_f32(value);
  std::memcpy(at, &half, sizeof(half));
}

void put_run(const StripOutput& strip, const StripRun& run, std::size_t token, std::byte* base, DType dtype) {
  const std::int16_t* row = strip.rows + token * kStripChannels;
  const std::size_t size = dtype == DType::kF32 ? 4 : 2;
  const auto value = [&](std::uint32_t c) {
    const float mean = strip.mean == nullptr ? 0.0f : strip.mean[c];
    return std::fma(static_cast<float>(row[c]), strip.scale[c], mean);
  };
  if (!run.rotated) {
    for (std::uint32_t i = 0; i < run.count; ++i) {
      store_value(base + (run.source + i) * size, dtype, value(run.first + i));
    }
    return;
  }
  for (std::uint32_t i = 0; i < run.count; i += 2) {
    const float x = value(run.first + i);
    const float y = value(run.first + i + 1);
    const float* angle = strip.angles + token * strip.angle_stride + 2 * run.pair + i;
    const std::uint32_t at = run.source + (run.split == 0 ? i : i / 2);
    const std::uint32_t other = at + (run.split == 0 ? 1 : run.split);
    store_value(base + at * size, dtype, std::fma(x, angle[0], -(y * angle[1])));
    store_value(base + other * size, dtype, std::fma(y, angle[0], x * angle[1]));
  }
}

void put_strip(const StripOutput& strip, std::size_t token_count, std::byte* base, std::int64_t row_stride, DType dtype) {
  for (std::size_t t = 0; t < token_count; ++t) {
    for (const StripRun& run : strip.runs) {
      put_run(strip, run, t, base + static_cast<std::int64_t>(t) * row_stride, dtype);
    }
  }
}

}  // namespace

const EntropyKernels& entropy_scalar() {
  static const EntropyKernels kSet = [] {
    EntropyKernels set{};
    set.name = "scalar";
    set.decode_strips = decode_strips;
    set.put_strip = put_strip;
    put_scalar_encoders(set);
    return set;
  }();
  return kSet;
}

}  // namespace cachecard::kernel
