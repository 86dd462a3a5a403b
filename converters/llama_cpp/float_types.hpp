#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "cachecard/types.hpp"

/// f32, f16 and bf16 among themselves.
namespace cachecard::llama_cpp {

/// Rounds to nearest even; what does not fit becomes infinite.
/// Needs: both types are float types; out holds as many values as in.
/// Returns the largest |x - converted| of the finite values.
double convert_floats(DType from, DType to, std::span<const std::byte> in, std::span<std::byte> out);

/// out[channel][row] = in[row][channel] for channels [first_channel, first_channel + channel_count).
/// Needs: element_bytes is 2 or 4; in holds row_count rows of row_elements values.
struct TransposeShape {
  std::size_t element_bytes;
  std::size_t row_elements;
  std::size_t row_count;
  std::size_t first_channel;
  std::size_t channel_count;
};
void transpose(const TransposeShape& shape, std::span<const std::byte> in, std::span<std::byte> out);

}  // namespace cachecard::llama_cpp
