#pragma once

#include <cstddef>
#include <span>

#include "cachecard/types.hpp"

namespace cachecard::kernel {

/// Turns rows of any element type into f32.
/// Needs: in holds exactly out.size() values of dtype; whole blocks.
/// Spec: CODECS.md#ggml   Source: ggml-quants.c dequantize_row_*
void to_f32(DType dtype, std::span<const std::byte> in, std::span<float> out);

}  // namespace cachecard::kernel
