#pragma once

#include <span>
#include <vector>

#include "kernel/entropy.hpp"

/// Encoding of one strip: values to indices, indices to words. spec: CODECS.md#entropy-encode
namespace cachecard {

/// What becomes of a strip's values. [token][64], channels that the strip lacks are zero.
struct StripRows {
  std::vector<std::int16_t> index;   ///< in token steps, behind the prediction
  std::vector<std::int16_t> rows;    ///< what a decoder will have
};

inline constexpr float kRowReach = 32767.0f;  ///< of rows and indices

/// Fills index and rows from values (mean off, card order), closed loop. scale: lane step / 64, one a channel.
/// Returns the number of coded tokens that miss a value by more than half a step, or leave +-reach, and marks them in missed
/// where it is not empty.
std::size_t quantise(std::span<const kernel::Lane> lanes, std::span<const float> scale,
                     std::span<const kernel::StripToken> tokens, const kernel::StripValues& values, float reach,
                     StripRows& strip, std::span<std::uint8_t> missed);

/// The indices that give these rows: where a row saturates, those of the smallest magnitude. So a strip that is cut can be
/// coded again from its rows alone.   Needs: rows are what a decoder made of such tokens
void index_of_rows(std::span<const kernel::Lane> lanes, std::span<const kernel::StripToken> tokens,
                   std::span<const std::int16_t> rows, std::span<std::int16_t> index);

/// How an index is coded.
struct CodedIndex {
  std::uint32_t symbol = 0;  ///< + 31
  std::uint32_t low = 0;
  kernel::LaneTable table{};
};
CodedIndex code_index(const kernel::EntropyTables& tables, kernel::LaneTable table, std::int32_t index);

/// A strip's payload and what its record says.
struct StripPayload {
  std::vector<std::byte> bytes;  ///< states, escapes, words, without the zeros behind them
  std::uint32_t word_count = 0;
  std::uint32_t escape_count = 0;
};

/// Room for a strip's symbols, kept from strip to strip.
class StripBuffers {
 public:
  kernel::StripSymbols symbols(std::size_t token_count);

 private:
  std::vector<std::uint16_t> words_;
  std::vector<std::uint32_t> keys_;
  std::vector<std::int16_t> escapes_;
};

/// index: [token][64]. Any index can be coded.
StripPayload encode_strip(std::span<const kernel::Lane> lanes, std::span<const kernel::StripToken> tokens,
                          std::span<const std::int16_t> index, StripBuffers& buffers);
StripPayload encode_strip(std::span<const kernel::Lane> lanes, std::span<const kernel::StripToken> tokens,
                          std::span<const std::int16_t> index);

}  // namespace cachecard
