#pragma once

#include <cstddef>
#include <span>

#include "cachecard/types.hpp"

namespace cachecard {

/// Every number up to it is finite in an element type, after all rounding on its way. Needs: f32, f16 or bf16
double safe_magnitude(DType dtype);

/// Largest magnitude of f32, f16 or bf16 elements, 0 of none. Not finite where one of them is not.
double largest_magnitude(DType dtype, std::span<const std::byte> elements);

}  // namespace cachecard
