#pragma once

#include <cstdint>
#include <span>

#include "cachecard/card.hpp"

namespace cachecard {

/// References of a chunk by longest equal suffix: each token refers to the latest earlier token of the chunk before which
/// the most of the last four token ids agree (its own included), class 2 where two or more do.
/// ids: of the chunk's tokens; before: ids that stand before the chunk, which may be compared but not referred to.
void suffix_references(std::span<const std::int32_t> before, std::span<const std::int32_t> ids,
                       std::span<std::uint16_t> out);

}  // namespace cachecard
