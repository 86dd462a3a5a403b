#pragma once

#include <string>

#include "cachecard/allocate.hpp"

namespace cachecard::cli {

/// A .npy of little-endian f32 or f64 in C order, numbers from 0 on, one dimension or more: token_count in the last, and 1 or
/// most_rows in the others. name: how messages call the file, "--weights <path>" where empty.
/// Errors: io, invalid_argument naming the file and what is wrong
Result<TokenWeights> read_weights(const std::string& path, std::uint64_t token_count, std::uint64_t most_rows,
                                  const std::string& name = {});

}  // namespace cachecard::cli
