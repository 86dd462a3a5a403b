#pragma once

#include <span>
#include <vector>

#include "cachecard/error.hpp"
#include "cachecard/types.hpp"

namespace cachecard {

/// Compressed bytes, or nullopt-like empty vector where that would not be smaller than in.
/// element_size: of split_zstd's bytes split; 1 otherwise. Errors: internal, out_of_memory
Result<std::vector<std::byte>> compress(Compressor compressor, std::span<const std::byte> in,
                                        std::size_t element_size, int zstd_level);

/// Scratch that decompress needs beyond out: split_zstd unsplits from a copy.
std::size_t decompress_scratch(Compressor compressor, std::size_t decoded_size);

/// Fills out exactly. Errors: corrupt (bad zstd data, or another size than out's), unsupported_codec
Status decompress(Compressor compressor, std::span<const std::byte> stored, std::size_t element_size,
                  std::span<std::byte> out, std::span<std::byte> scratch);

}  // namespace cachecard
