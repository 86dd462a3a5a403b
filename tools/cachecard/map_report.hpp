#pragma once

#include "output.hpp"

namespace cachecard::cli {

/// The bit-width map of each segment, widths in bits, runs of equal tokens as one row.
/// Errors: the reader's
Result<std::vector<Json>> map_rows(const CardReader& card);

}  // namespace cachecard::cli
