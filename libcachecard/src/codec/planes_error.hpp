#pragma once

#include "codec/planes_codec.hpp"

namespace cachecard {

/// Whether ggml's q8_0 would keep these rows better for its size (8.5 against 8 bits and the scale): only where every
/// coded token has 8 bits; below that the caller asked for less. Both errors are the expected ones of a uniform
/// quantiser, step^2 / 12 a value.
bool worse_than_q8_0(const PlanesStream& stream, const PlanesTokens& tokens, std::span<const std::byte> rows,
                     std::span<const std::int16_t> top, std::span<const std::byte> scale);

}  // namespace cachecard
