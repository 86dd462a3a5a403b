#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "kernel/planes.hpp"
#include "kernel/planes_tables.hpp"

/// The inner loops of the codec `entropy`, strip by strip. Scalar code is the reference; any other set gives the same bits.
/// Spec: CODECS.md#entropy

namespace cachecard::kernel {

inline constexpr std::uint32_t kStripChannels = 64;  ///< states of a full strip
inline constexpr std::uint32_t kStripPairs = 32;     ///< states 0-31 are even channels, 32-63 odd ones
inline constexpr std::uint32_t kTableCount = 24;     ///< 2 shapes of 12 spreads
inline constexpr std::uint32_t kTableBits = 12;
inline constexpr std::uint32_t kTableSlots = 1u << kTableBits;
inline constexpr std::int32_t kLargestSymbol = 31;
inline constexpr std::int32_t kEscape = 32;  ///< as a decoded symbol
inline constexpr std::uint32_t kLeastState = 1u << 16;
inline constexpr std::uint32_t kMostLowBits = 6;
/// Words that must be readable behind a strip's last: one token's at most, and a vector.
inline constexpr std::size_t kWordPadding = 2 * kStripChannels + 32;
inline constexpr std::uint32_t kNoTable = kTableCount;  ///< of a lane that a strip lacks: leaves its state as it is
inline constexpr std::int32_t kMostCostIndex = 1023;    ///< indices beyond are as costly as this one
inline constexpr std::int32_t kLeastCostSum = -8;       ///< of level and shift
inline constexpr std::size_t kCostSums = 48;            ///< -8 to 38, and one
inline constexpr std::size_t kCostWindow = 8;           ///< levels that are tried

/// Frequencies by magnitude 0 to 31, then the escape's; both signs have the same one.
using TableFrequencies = std::array<std::uint16_t, kLargestSymbol + 2>;

/// The static tables in the forms that coding wants.
struct EntropyTables {
  /// By table and slot: slot - first slot of the symbol | frequency << 12 | symbol << 24.
  std::array<std::uint32_t, kTableCount * kTableSlots> slots;
  /// By table and symbol + 31; the escape is symbol 32.
  struct Symbol {
    std::uint16_t frequency;
    std::uint16_t first;
  };
  std::array<std::array<Symbol, 64>, kTableCount> symbols;
  /// Code length in 1/256 bit by table and symbol + 31; a symbol without frequency costs what an escape does.
  std::array<std::array<std::uint16_t, 64>, kTableCount> cost;
  /// What an encoder puts, by table and min(u32(symbol + 31), 63): frequency | first slot << 16. A symbol that the table
  /// does not have is the escape, and has kIsEscape.
  std::array<std::uint32_t, (kTableCount + 1) * 64> coded;
  static constexpr std::uint32_t kIsEscape = 1u << 31;
};
const EntropyTables& entropy_tables();
/// Needs: each table's frequencies, signs counted twice, add up to 4,096; the escape's is above 0.
void fill_tables(std::span<const TableFrequencies, kTableCount> frequencies, EntropyTables& tables);

/// A lane's parameters, opened. spec: CODECS.md#lane-parameters
struct Lane {
  std::array<std::uint8_t, 3> level{};   ///< by class, 0 to 31
  std::array<std::uint8_t, 3> weight{};  ///< by class, in eighths; class 0 has none
  std::uint8_t shape = 0;                ///< 0 Laplace, 1 Gauss
  std::uint8_t step = 0;                 ///< sixteenths of an octave, 128 is 1
};
Lane open_lane(std::uint32_t bits);
std::uint32_t pack_lane(const Lane& lane);

/// 2^((c - 128) / 16), rounded to f32.
constexpr float lane_step(std::uint8_t c) {
  float power = 1.0f;
  for (int octave = c / 16; octave < 8; ++octave) power *= 0.5f;
  for (int octave = c / 16; octave > 8; --octave) power *= 2.0f;
  return kSixteenthOctaves[c % 16] * power;
}

/// Which table, and how many raw low bits, at a level and a shift.
struct LaneTable {
  std::uint8_t table;  ///< 0 to 23
  std::uint8_t low_bits;
};
constexpr LaneTable lane_table(std::uint32_t level, std::int32_t shift, std::uint32_t shape) {
  std::int32_t lambda = static_cast<std::int32_t>(level) - 8 + shift;
  lambda = lambda < 0 ? 0 : lambda > 23 ? 23 : lambda;
  const std::int32_t k = lambda > 11 ? (lambda - 10) >> 1 : 0;
  return {static_cast<std::uint8_t>(12 * static_cast<std::int32_t>(shape) + lambda - 2 * k), static_cast<std::uint8_t>(k)};
}

/// A token as one head vector's strips see it.
struct StripToken {
  std::uint16_t distance = 0;    ///< back to the row it is predicted from
  std::uint16_t multiplier = 0;  ///< token step in 1/512 of the lane step
  std::uint8_t reference = 0;    ///< class 0 (none), 1 or 2
  std::int8_t shift = 0;         ///< of the lanes' levels, half octaves, -8 to 7
  std::uint8_t coded = 0;        ///< 0: takes no symbols, its row is zero
  std::uint8_t unused = 0;
};

/// a = sat16((w r + m x + 4) >> 3).   Needs: |r|, |x| fit i16, w <= 8, m <= 19,484: then nothing overflows
inline std::int16_t row_value(std::int32_t weight, std::int32_t reference, std::int32_t multiplier, std::int32_t index) {
  const std::int32_t a = (weight * reference + multiplier * index + 4) >> 3;
  return static_cast<std::int16_t>(a > 32767 ? 32767 : a < -32768 ? -32768 : a);
}

/// A strip as it lies in its payload.
struct Strip {
  std::uint32_t channels = 0;            ///< 1 to 64
  const Lane* lanes = nullptr;           ///< one a channel, in card order
  const std::uint32_t* states = nullptr; ///< one a channel, in state order: even channels, then odd ones
  const std::uint16_t* words = nullptr;  ///< kWordPadding more are readable
  std::uint32_t word_count = 0;
  std::span<const std::uint32_t> escape_keys;  ///< token x 64 + state, ascending
  const std::int16_t* escapes = nullptr;
};

enum class StripOutcome : std::uint8_t { kWhole, kWordsShort, kWordsLeft, kEndState, kEscapes };
std::string_view name_of(StripOutcome outcome) noexcept;

/// A strip to decode, or decoded.
struct StripTask {
  Strip strip;
  std::span<const StripToken> tokens;
  std::int16_t* rows = nullptr;  ///< [token][64] in channel order; channels that the strip lacks are zero
  StripOutcome outcome = StripOutcome::kWhole;  ///< on any other, rows are unspecified
};

/// Where channels [first, first + count) of a strip go, all rotated or none. spec: CODECS.md#card-order
struct StripRun {
  std::uint32_t first = 0;      ///< channel of the strip, even where rotated
  std::uint32_t count = 0;
  std::uint32_t source = 0;     ///< element in the head; half-split: of the first pair's x
  std::uint32_t split = 0;      ///< half-split: elements from x to y; else 0
  bool rotated = false;
  std::uint32_t pair = 0;       ///< of the head's, where rotated
};

/// What turns rows into values.
struct StripOutput {
  const std::int16_t* rows = nullptr;  ///< [token][64]
  const float* scale = nullptr;        ///< lane step / 64, one a channel
  const float* mean = nullptr;         ///< one a channel, or null
  const float* angles = nullptr;       ///< of the first token, {cos, sin} a pair
  std::size_t angle_stride = 0;        ///< floats from one token to the next
  std::span<const StripRun> runs;
};

/// Lanes side by side, as an encoder wants them. A channel that the strip lacks has zeros.
struct LaneArrays {
  alignas(64) std::array<float, kStripChannels> inverse{};  ///< 64 / lane step
  alignas(64) std::array<std::array<std::int32_t, kStripChannels>, 3> weight{};  ///< by class
};

/// Values of a strip. Of each token 64 are readable; what the strip lacks is finite.
struct StripValues {
  const float* first = nullptr;
  std::size_t stride = kStripChannels;  ///< from one token to the next
  const float* token(std::size_t t) const { return first + t * stride; }
};

/// What a strip's indices become, last token first: a decoder takes words, keys and escapes in the other order.
struct StripSymbols {
  std::array<std::uint32_t, kStripChannels> states;
  std::uint16_t* words = nullptr;  ///< room for 128 a coded token, and kWordPadding
  std::size_t word_count = 0;
  std::uint32_t* keys = nullptr;   ///< room for 64 a coded token, as in escapes
  std::int16_t* escapes = nullptr;
  std::size_t escape_count = 0;
};

/// Sums over the tokens of a class that have a reference, by channel. A token counts by the square of its steps.
struct WeightSums {
  std::array<std::array<double, kStripChannels>, 3> product{};  ///< own value x reference
  std::array<std::array<double, kStripChannels>, 3> square{};   ///< reference^2, and its rounding error's
};

/// A token whose code lengths are summed.
struct CostToken {
  std::uint32_t token = 0;
  std::int32_t sum = 0;  ///< shift - kLeastCostSum
};
/// Code lengths in 1/256 bit, by half of the tokens, channel, shape and level of the window.
using CostSums = std::array<std::array<std::array<std::array<std::uint32_t, kCostWindow>, 2>, kStripChannels>, 2>;

/// A set of loops for one SIMD target. Every member gives the same bits as the scalar set's.
struct EntropyKernels {
  const char* name;
  /// Strips of one chunk.   Needs: no token's distance leads before the first, weights and shifts in range
  void (*decode_strips)(std::span<StripTask> tasks);
  /// Values of token_count tokens, rounded to target.dtype; token t goes t x row_stride bytes behind target.base, which is
  /// the head's first element.
  void (*put_strip)(const StripOutput& strip, std::size_t token_count, std::byte* base, std::int64_t row_stride, DType dtype);

  // For encoders.
  /// Indices and rows [token][64], closed loop. Returns how many coded tokens miss a value by more than half a step, or
  /// reach beyond +-reach in rows or indices (at most 32,767); marks them in missed where it is not null.
  std::size_t (*quantise_strip)(const LaneArrays& lanes, std::span<const StripToken> tokens, const StripValues& values,
                                float reach, std::int16_t* index, std::int16_t* rows, std::uint8_t* missed);
  /// index: [token][64]. Any index can be coded.
  void (*encode_strip)(std::span<const Lane> lanes, std::span<const StripToken> tokens, const std::int16_t* index,
                       StripSymbols& out);
  /// squared_scale: (lane step / 64)^2, one a channel, 64 of them.
  void (*add_products)(std::span<const StripToken> tokens, const StripValues& values, const float* squared_scale,
                       WeightSums& sums);
  /// costs: by index + kMostCostIndex, shape and sum of level and shift (kCostSums).   first_level: one a channel, 64.
  void (*add_costs)(const std::uint16_t* costs, std::span<const CostToken> tokens, const std::int16_t* index,
                    const std::uint8_t* first_level, CostSums& sums);
  /// Adds values less origin, and their squares, channel by channel. Rows follow each other.
  void (*add_moments)(std::span<const float> rows, std::span<const float> origin, double* sums, double* squares);
  /// Mean square of each unit, a head vector; unit u goes to energy[u x stride]. energy: or null.
  /// False where a value is not finite; what it says of energy is then unspecified.
  bool (*row_energy)(std::span<const float> row, std::span<const std::uint32_t> group_widths, float* energy,
                     std::size_t stride);

  StripOutcome decode_strip(const Strip& strip, std::span<const StripToken> tokens, std::int16_t* rows) const {
    StripTask task{strip, tokens, rows};
    decode_strips({&task, 1});
    return task.outcome;
  }
};

const EntropyKernels& entropy_scalar();
/// The sets that this processor runs, best first, scalar last.   Names: avx512, avx2, neon, scalar
std::span<const EntropyKernels* const> entropy_targets();
/// The best of them.
const EntropyKernels& entropy_kernels();

}  // namespace cachecard::kernel
