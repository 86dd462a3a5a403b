#pragma once

#include "cachecard/edit.hpp"

namespace cachecard {

/// Shifts the offsets of the tokens behind the kept ones, head by head, half way to the mean that BASE's have: the newest tokens are
/// always the ones that are looked at most, so that at every hop they would take twice the bits of BASE's, and keep them when they
/// are old; with BASE's mean the next reader would suffer most from them. Which of the new ones count more stays as it is.
/// header: of the new card, kept of its tokens are BASE's   Errors: the reader's
Status level_offsets(const CardReader& base, const CardHeader& header, std::uint64_t kept, EntropyOptions& entropy);

}  // namespace cachecard
