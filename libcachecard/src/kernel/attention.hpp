#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

/// How much queries look at keys: what the allocator's token weights are made of. Scalar code is the reference; any other
/// set gives the same bits.
namespace cachecard::kernel {

inline constexpr std::size_t kKeyBlock = 16;  ///< tokens whose keys lie side by side

/// Keys of one head: [token / kKeyBlock][channel][kKeyBlock], the last block filled up with anything finite.
struct KeyBlocks {
  const float* keys = nullptr;
  std::size_t dim = 0;
  std::size_t token_count = 0;

  std::size_t block_count() const { return (token_count + kKeyBlock - 1) / kKeyBlock; }
};

/// A set of loops for one SIMD target. Every member gives the same bits as the scalar set's.
struct AttentionKernels {
  const char* name;
  /// Adds share x A^2 of every query to sums, A = softmax of query . key over the tokens that it sees, base 2: the factor
  /// of attention and log2(e) are in the queries.
  /// queries: [query][keys.dim]; visible: tokens that each sees, 1 to keys.token_count; shares: one a query
  /// sums: keys.block_count() x kKeyBlock   scratch: attention_scratch(keys) floats
  void (*add_squares)(const KeyBlocks& keys, std::span<const float> queries, std::span<const std::uint32_t> visible,
                      std::span<const float> shares, float* scratch, float* sums);
};

/// Floats of scratch for add_squares.
std::size_t attention_scratch(const KeyBlocks& keys);

/// The reference.
const AttentionKernels& attention_scalar();
/// The sets that this processor runs, best first, scalar last.   Names: avx512, avx2, neon, scalar
std::span<const AttentionKernels* const> attention_targets();
/// The best of them.
const AttentionKernels& attention_kernels();

}  // namespace cachecard::kernel
