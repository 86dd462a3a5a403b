#include "chunked_writer.hpp"

#include <algorithm>
#include <bit>

#include "chunk_filter.hpp"

namespace cachecard::hdf5 {
namespace {

constexpr std::uint64_t kChunkBytes = 1u << 20;
constexpr std::uint32_t kDeflateSkipped = 1u << 1;  ///< filter mask: the second of shuffle, deflate

/// Whole rows where one fits, else parts of one; a power of two of rows, so that chunks of a card fall on them.
ChunkGrid plan_grid(std::span<const std::uint64_t> dims, std::uint64_t element_bytes) {
  ChunkGrid grid;
  grid.element_bytes = element_bytes;
  std::copy(dims.begin(), dims.end(), grid.dims.begin());
  std::uint64_t bytes = element_bytes;
  for (std::size_t axis = 3; axis-- > 0;) {
    const std::uint64_t fits = std::max<std::uint64_t>(kChunkBytes / bytes, 1);
    grid.chunk[axis] = std::clamp<std::uint64_t>(grid.dims[axis], 1, axis == 0 ? std::bit_floor(fits) : fits);
    bytes *= grid.chunk[axis];
  }
  return grid;
}

}  // namespace

Result<ChunkedWriter> ChunkedWriter::create(const H5Node& parent, const std::string& name, hid_t type,
                                            std::span<const std::uint64_t> dims, int deflate_level,
                                            const ParallelFor& parallel, ChunkBuffers& buffers) {
  const ChunkGrid grid = plan_grid(dims, H5Tget_size(type));
  ArrayStorage storage;
  storage.chunk.assign(grid.chunk.begin(), grid.chunk.begin() + static_cast<std::ptrdiff_t>(dims.size()));
  storage.deflate_level = deflate_level;
  auto array = create_array(parent, name, type, dims, storage);
  if (!array) return array.error();
  return ChunkedWriter(std::move(*array), grid, deflate_level, parallel, buffers);
}

Status ChunkedWriter::append(std::span<const std::byte> rows) {
  const std::span<std::byte> out = room(rows.size());
  std::copy(rows.begin(), rows.end(), out.begin());
  return write_room();
}

std::span<std::byte> ChunkedWriter::room(std::uint64_t row_bytes) {
  const std::size_t before = buffers_->pending.size();
  buffers_->pending.reserve(row_bytes + grid_.chunk[0] * grid_.row_bytes());  // once: pieces are of about one size
  buffers_->pending.resize(before + row_bytes);
  return std::span(buffers_->pending).subspan(before);
}

Status ChunkedWriter::write_room() {
  return flush(first_row_ + buffers_->pending.size() / std::max<std::uint64_t>(grid_.row_bytes(), 1) == grid_.dims[0]);
}

ChunkGrid::Shape ChunkedWriter::origin(std::uint64_t chunk_index) const {
  const std::uint64_t across = grid_.across();
  return grid_.origin(first_row_ + chunk_index / across * grid_.chunk[0], chunk_index % across);
}

void ChunkedWriter::encode(std::uint64_t chunk_index, std::uint64_t row_count, Slot& slot) const {
  const ChunkGrid::Shape at = origin(chunk_index);
  const std::uint64_t begin = (at[0] - first_row_) * grid_.row_bytes();
  std::span<const std::byte> plain;
  if (grid_.across() == 1 && begin + grid_.chunk_bytes() <= row_count * grid_.row_bytes()) {
    plain = std::span(buffers_->pending).subspan(begin, grid_.chunk_bytes());  // whole rows: in place
  } else {
    slot.plain.assign(grid_.chunk_bytes(), std::byte{0});
    gather_chunk(grid_, at, buffers_->pending, first_row_, row_count, slot.plain);
    plain = slot.plain;
  }
  slot.filter_mask = 0;
  slot.stored = plain;
  if (level_ == 0) return;
  shuffle(plain, grid_.element_bytes, slot.shuffled);
  const std::size_t size = deflate(slot.shuffled, level_, slot.deflated);
  slot.filter_mask = size > 0 ? 0 : kDeflateSkipped;
  slot.stored = size > 0 ? std::span<const std::byte>(slot.deflated).first(size) : slot.shuffled;
}

Status ChunkedWriter::write(std::uint64_t chunk_index, const Slot& slot) const {
  const ChunkGrid::Shape at = origin(chunk_index);
  const hsize_t offset[] = {at[0], at[1], at[2]};
  if (H5Dwrite_chunk(array_.id.get(), H5P_DEFAULT, slot.filter_mask, offset, slot.stored.size(), slot.stored.data()) < 0) {
    return array_.file->error(ErrorCode::kIo, array_.path, "cannot be written");
  }
  return array_.file->written();
}

/// Writes the chunks that are full; of the last rows every one.
Status ChunkedWriter::flush(bool last) {
  if (grid_.row_bytes() == 0) return {};
  const std::uint64_t rows = buffers_->pending.size() / grid_.row_bytes();
  const std::uint64_t spans = last ? (rows + grid_.chunk[0] - 1) / grid_.chunk[0] : rows / grid_.chunk[0];
  const std::uint64_t chunks = spans * grid_.across();
  if (chunks > 0 && buffers_->slots.empty()) buffers_->slots.resize(2 * std::max<std::size_t>(parallel_.width, 1));
  for (std::uint64_t done = 0; done < chunks; done += buffers_->slots.size()) {
    struct Batch {
      ChunkedWriter& self;
      std::uint64_t first;
      std::uint64_t rows;
    } batch{*this, done, rows};
    const std::size_t count = std::min<std::uint64_t>(buffers_->slots.size(), chunks - done);
    for (std::size_t i = 0; i < count; ++i) {
      if (level_ == 0) break;
      buffers_->slots[i].shuffled.resize(grid_.chunk_bytes());
      buffers_->slots[i].deflated.resize(deflate_bound(grid_.chunk_bytes()));
    }
    parallel_(
        count,
        [](void* context, std::size_t i) {
          auto& work = *static_cast<Batch*>(context);
          work.self.encode(work.first + i, work.rows, work.self.buffers_->slots[i]);
        },
        &batch);
    for (std::size_t i = 0; i < count; ++i) {
      if (Status s = write(done + i, buffers_->slots[i]); !s) return s;
    }
  }
  const std::uint64_t taken = std::min(rows, spans * grid_.chunk[0]);
  buffers_->pending.erase(buffers_->pending.begin(), buffers_->pending.begin() + static_cast<std::ptrdiff_t>(taken * grid_.row_bytes()));
  first_row_ += taken;
  return {};
}

}  // namespace cachecard::hdf5
