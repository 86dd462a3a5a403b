#pragma once

#include <vector>

#include "chunk_grid.hpp"
#include "h5_write.hpp"

namespace cachecard::hdf5 {

/// What ChunkedWriters work in, one after the other: kept from stream to stream, because blocks of this size that come and
/// go leave holes in the heap that small ones of the library break up.
struct ChunkBuffers {
  struct Slot {
    std::vector<std::byte> plain, shuffled, deflated;
    std::span<const std::byte> stored;
    std::uint32_t filter_mask = 0;
  };
  std::vector<std::byte> pending;  ///< rows that were not written yet
  std::vector<Slot> slots;         ///< one for each chunk in flight
};

/// A dataset that gets its rows in order, in pieces of any number of rows; shuffled and deflated on the caller's threads,
/// chunk by chunk. Chunks take up to 1 MiB, which readers cache.
/// Memory: the rows of one piece, those that do not fill a chunk yet, and six chunks for each task in flight
class ChunkedWriter {
 public:
  /// Shape: dims, at most three. buffers must outlive the writer, and serve no other meanwhile. Errors: io
  static Result<ChunkedWriter> create(const H5Node& parent, const std::string& name, hid_t type,
                                      std::span<const std::uint64_t> dims, int deflate_level,
                                      const ParallelFor& parallel, ChunkBuffers& buffers);

  /// Needs: rows is whole rows, not more than are still missing. Errors: io, the sink's
  Status append(std::span<const std::byte> rows);
  /// The same without a copy: room for the next rows, which write_room() takes once they are filled in.
  std::span<std::byte> room(std::uint64_t row_bytes);
  Status write_room();

 private:
  using Slot = ChunkBuffers::Slot;
  ChunkedWriter(H5Node array, ChunkGrid grid, int level, const ParallelFor& parallel, ChunkBuffers& buffers)
      : array_(std::move(array)), grid_(grid), level_(level), parallel_(parallel), buffers_(&buffers) {
    buffers.pending.clear();
  }
  void encode(std::uint64_t chunk_index, std::uint64_t row_count, Slot& slot) const;
  Status write(std::uint64_t chunk_index, const Slot& slot) const;
  ChunkGrid::Shape origin(std::uint64_t chunk_index) const;
  Status flush(bool last);

  H5Node array_;
  ChunkGrid grid_;
  int level_;
  ParallelFor parallel_;
  ChunkBuffers* buffers_;
  std::uint64_t first_row_ = 0;  ///< of buffers_->pending
};

}  // namespace cachecard::hdf5
