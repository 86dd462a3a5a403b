#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace cachecard::hdf5 {

/// An array cut into equal boxes, of up to three dimensions; one that is missing is 1. Rows run along the first.
/// Invariant: no dimension of chunk is 0, and all products fit 64 bits.
struct ChunkGrid {
  using Shape = std::array<std::uint64_t, 3>;
  Shape dims{1, 1, 1};
  Shape chunk{1, 1, 1};
  std::uint64_t element_bytes = 1;

  std::uint64_t row_bytes() const { return dims[1] * dims[2] * element_bytes; }
  std::uint64_t chunk_bytes() const { return chunk[0] * chunk[1] * chunk[2] * element_bytes; }
  /// Chunks side by side in one span of rows.
  std::uint64_t across() const { return along(1) * along(2); }
  std::uint64_t along(std::size_t axis) const { return dims[axis] / chunk[axis] + (dims[axis] % chunk[axis] != 0); }
  /// First element of chunk number `index` among those that begin in row `first_row`.
  Shape origin(std::uint64_t first_row, std::uint64_t index) const {
    return {first_row, index / along(2) * chunk[1], index % along(2) * chunk[2]};
  }
};

/// Copies what a chunk and rows [first_row, first_row + row_count) share. Needs: rows are row_count x row_bytes(),
/// chunk is chunk_bytes(), origin lies in the array
void gather_chunk(const ChunkGrid& grid, const ChunkGrid::Shape& origin, std::span<const std::byte> rows,
                  std::uint64_t first_row, std::uint64_t row_count, std::span<std::byte> chunk);
void scatter_chunk(const ChunkGrid& grid, const ChunkGrid::Shape& origin, std::span<const std::byte> chunk,
                   std::uint64_t first_row, std::uint64_t row_count, std::span<std::byte> rows);

}  // namespace cachecard::hdf5
