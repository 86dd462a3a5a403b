#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cachecard/error.hpp"

/// Which bits are worth their bytes. Pure functions over weights and a budget.
namespace cachecard {

/// What errors of one stream cost.
struct StreamWeight {
  /// KL of the next token, in nats, for each unit of the stream's relative squared error; any common factor will do.
  double sensitivity = 0.0;
  std::uint64_t value_count = 0;
};

/// Bits of each stream, 2 to most (1 where the mean is below 2), so that the sum of sensitivity x 4^-bits is least
/// under a mean over all values of at most mean_bits: a bit less is four times the squared error. Streams of equal
/// gain get theirs in order. Source: reverse water-filling with whole bits, bit by bit (greedy, exact where streams are
/// of equal size)
/// Errors: invalid_argument (no values, a sensitivity that is negative or not finite, mean_bits or most out of range)
Result<std::vector<std::uint8_t>> allocate_bits(std::span<const StreamWeight> streams, double mean_bits,
                                                std::uint8_t most = 8);

}  // namespace cachecard
