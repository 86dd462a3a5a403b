#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "cachecard/error.hpp"

namespace cachecard::hdf5 {

/// HDF5's two filters that are always there, here because the library's own run on one thread, and inflate without a bound.
/// source: HDF5, H5Zshuffle.c: first byte of every element, then the second of every element, ...
/// Needs (both): sizes are equal and whole elements
void shuffle(std::span<const std::byte> in, std::size_t element_bytes, std::span<std::byte> out);
void unshuffle(std::span<const std::byte> in, std::size_t element_bytes, std::span<std::byte> out);

/// What in can become at most.
std::size_t deflate_bound(std::size_t size);
/// A zlib stream; its size, 0 where it would not be smaller than in. Needs: out.size() >= deflate_bound(in.size())
std::size_t deflate(std::span<const std::byte> in, int level, std::span<std::byte> out);
/// Errors: corrupt (broken, or not exactly out.size() bytes)
Status inflate(std::span<const std::byte> in, std::span<std::byte> out);

}  // namespace cachecard::hdf5
