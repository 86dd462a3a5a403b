#pragma once

#include <vector>

#include "cachecard/edit.hpp"

namespace cachecard {

/// A row of a state that is farther from a card's than the card's codec may be off.
struct Misfit {
  std::size_t stream = 0;  ///< of the state
  std::uint64_t token = 0;
  double distance = 0.0;   ///< root mean square over the row
  double allowed = 0.0;
};

/// Compares a state's rows of tokens [first, first + count) with a card's, chunk by chunk: exact rows bit for bit; coded ones
/// by the length of the difference, which half a step for each value bounds, plus rounding to the element type.
/// Returns the first misfit of each chunk, by stream and token. Errors: the reader's and the source's
/// Needs: match_geometry passed
Result<std::vector<Misfit>> find_misfits(const CardReader& base, const CacheSource& state, TokenSpan tokens,
                                         const ParallelFor& parallel);

/// For messages.
Error misfit_error(const CardHeader& state, const Misfit& misfit);

}  // namespace cachecard
