#pragma once

#include <string>

#include "cachecard/allocate.hpp"

namespace cachecard::cli {

/// An array of numbers as NumPy saves it.
struct WeightsFile {
  TokenWeights weights;
  bool half_bits = false;  ///< its numbers are offsets, -7 to 8, not weights
};

/// A .npy of little-endian f32 or f64 (weights from 0 on) or i8 (half bits) in C order, one dimension or more: token_count in the last, and 1 or
/// most_rows in the others. name: how messages call the file, "--weights <path>" where empty.
/// Errors: io, invalid_argument naming the file and what is wrong
Result<WeightsFile> read_weights(const std::string& path, std::uint64_t token_count, std::uint64_t most_rows,
                                  const std::string& name = {});

}  // namespace cachecard::cli
