#include "chunk_grid.hpp"

#include <algorithm>
#include <cstring>

namespace cachecard::hdf5 {
namespace {

/// Calls copy(offset in rows, offset in chunk, size) for every run of bytes that lies together in both.
template <class Copy>
void for_each_run(const ChunkGrid& grid, const ChunkGrid::Shape& origin, std::uint64_t first_row,
                  std::uint64_t row_count, const Copy& copy) {
  const std::uint64_t begin = std::max(first_row, origin[0]);
  const std::uint64_t end = std::min(first_row + row_count, std::min(origin[0] + grid.chunk[0], grid.dims[0]));
  if (begin >= end) return;
  const std::uint64_t across1 = std::min(grid.chunk[1], grid.dims[1] - origin[1]);
  const std::uint64_t across2 = std::min(grid.chunk[2], grid.dims[2] - origin[2]);
  const std::uint64_t chunk_row = grid.chunk[1] * grid.chunk[2] * grid.element_bytes;
  const bool whole_rows = grid.chunk[1] == grid.dims[1] && grid.chunk[2] == grid.dims[2];
  if (whole_rows) {
    copy((begin - first_row) * chunk_row, (begin - origin[0]) * chunk_row, (end - begin) * chunk_row);
    return;
  }
  for (std::uint64_t row = begin; row < end; ++row) {
    for (std::uint64_t i = 0; i < across1; ++i) {
      const std::uint64_t in_row = ((origin[1] + i) * grid.dims[2] + origin[2]) * grid.element_bytes;
      copy((row - first_row) * grid.row_bytes() + in_row,
           (row - origin[0]) * chunk_row + i * grid.chunk[2] * grid.element_bytes, across2 * grid.element_bytes);
    }
  }
}

}  // namespace

void gather_chunk(const ChunkGrid& grid, const ChunkGrid::Shape& origin, std::span<const std::byte> rows,
                  std::uint64_t first_row, std::uint64_t row_count, std::span<std::byte> chunk) {
  for_each_run(grid, origin, first_row, row_count, [&](std::uint64_t from, std::uint64_t to, std::uint64_t size) {
    std::memcpy(chunk.data() + to, rows.data() + from, size);
  });
}

void scatter_chunk(const ChunkGrid& grid, const ChunkGrid::Shape& origin, std::span<const std::byte> chunk,
                   std::uint64_t first_row, std::uint64_t row_count, std::span<std::byte> rows) {
  for_each_run(grid, origin, first_row, row_count, [&](std::uint64_t to, std::uint64_t from, std::uint64_t size) {
    std::memcpy(rows.data() + to, chunk.data() + from, size);
  });
}

}  // namespace cachecard::hdf5
