#pragma once

#include <string>
#include <vector>

#include "cachecard/error.hpp"
#include "cachecard/io.hpp"

namespace cachecard::cli {

/// An array of numbers from 0 on, as NumPy saves it.
struct WeightsFile {
  std::uint64_t rows = 0;         ///< of dimensions but the last, multiplied
  std::uint64_t token_count = 0;  ///< the last dimension
  std::vector<float> values;      ///< [row][token]
};

/// A .npy of little-endian f32 or f64 in C order, one dimension or more, token_count in the last.
/// Errors: io, invalid_argument naming the flag, the file and what is wrong
Result<WeightsFile> read_weights(const std::string& path, std::uint64_t token_count, std::uint64_t most_rows);

}  // namespace cachecard::cli
