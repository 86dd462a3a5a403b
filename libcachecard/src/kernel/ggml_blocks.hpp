#pragma once

#include <cstddef>
#include <span>

#include "cachecard/types.hpp"

namespace cachecard::kernel {

/// Turns rows of any element type into f32.
/// Needs: in holds exactly out.size() values of dtype; whole blocks.
/// Spec: CODECS.md#ggml   Source: ggml-quants.c dequantize_row_*
void to_f32(DType dtype, std::span<const std::byte> in, std::span<float> out);

/// Values that are NaN or infinite: elements of float types, block scales (times their block) of ggml's.
std::size_t count_nonfinite(DType dtype, std::span<const std::byte> in);

}  // namespace cachecard::kernel
