#pragma once

#include <cstddef>
#include <span>

#include "cachecard/types.hpp"

/// ggml's block types as llama.cpp's CPU code writes them into a cache, byte for byte.
/// source: ggml v0.25.3, set_rows -> from_float of ggml-cpu: quantize_row_q8_0 of x86 (not the _ref, which
/// takes 1/d and rounds half away), quantize_row_{q4_0,q4_1,q5_0,q5_1,iq4_nl}_ref for the others
namespace cachecard::llama_cpp {

/// Values as whole blocks of dtype. A block of iq4_nl whose largest value is below 1e-15 gets zero codes
/// (ggml leaves those of the block before). Returns the largest |x - decoded|. Needs: dtype is a block type,
/// values are finite and whole blocks, out holds exactly their bytes.
double encode_blocks(DType dtype, std::span<const float> values, std::span<std::byte> out);

/// Sylvester Walsh-Hadamard transform of groups of n values over sqrt(n); its own inverse. The same sums in
/// the same order as the library's, several groups side by side. Needs: n is a power of two that divides
/// values.size().
void rotate_groups(std::span<float> values, std::size_t n);

}  // namespace cachecard::llama_cpp
