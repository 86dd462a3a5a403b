#include "h5_array.hpp"

#include <algorithm>
#include <array>
#include <mutex>

#include "chunk_filter.hpp"

namespace cachecard::hdf5 {
namespace {

constexpr std::uint64_t kMaxChunkBytes = 16u << 20;

Status check_extents(const H5Node& node, std::span<const Extent> extents, ChunkGrid& grid) {
  const Handle space(H5Dget_space(node.id.get()), H5Sclose);
  const int rank = H5Sget_simple_extent_ndims(space.get());
  if (H5Sget_simple_extent_type(space.get()) != H5S_SIMPLE || rank != static_cast<int>(extents.size())) {
    return h5_refusal(node.path, "found " + std::to_string(rank) + " dimensions, allowed are " +
                                     std::to_string(extents.size()));
  }
  std::array<hsize_t, 3> dims{};
  H5Sget_simple_extent_dims(space.get(), dims.data(), nullptr);
  for (std::size_t i = 0; i < extents.size(); ++i) {
    const Extent& allowed = extents[i];
    if (dims[i] >= allowed.min && dims[i] <= allowed.max) {
      grid.dims[i] = dims[i];
      continue;
    }
    const bool one = allowed.min == allowed.max;
    const std::string range = one ? std::to_string(allowed.min)
                                  : std::to_string(allowed.min) + " to " + std::to_string(allowed.max);
    return Error{one ? ErrorCode::kForeignInput : ErrorCode::kLimitExceeded, kNoOffset, node.path,
                 "dimension " + std::to_string(i) + ": found " + std::to_string(dims[i]) + ", allowed is " + range};
  }
  return {};
}

}  // namespace

Result<H5Array> H5Array::open(const H5Node& parent, const std::string& name, std::span<const hid_t> types,
                              std::span<const Extent> extents) {
  auto node = open_dataset(parent, name);
  if (!node) return node.error();
  H5Array array;
  array.node_ = std::move(*node);
  // The storage first: to ask a virtual dataset for its shape may open other files.
  if (Status s = array.check_storage(); !s) return s.error();
  array.type_ = Handle(H5Dget_type(array.node_.id.get()), H5Tclose);
  const auto same = [&](hid_t type) { return H5Tequal(array.type_.get(), type) > 0; };
  const auto match = std::find_if(types.begin(), types.end(), same);
  if (match == types.end()) {
    std::string allowed;
    for (const hid_t type : types) allowed += (allowed.empty() ? "" : " or ") + type_text(type);
    return h5_refusal(array.node_.path, "found " + type_text(array.type_.get()) + ", allowed is " + allowed);
  }
  array.type_index_ = static_cast<std::size_t>(match - types.begin());
  array.rank_ = extents.size();
  array.grid_.element_bytes = H5Tget_size(array.type_.get());
  if (Status s = check_extents(array.node_, extents, array.grid_); !s) return s.error();
  const std::uint64_t bytes = array.row_count() * array.grid_.row_bytes();
  if (!array.chunked_ && H5Dget_storage_size(array.node_.id.get()) != bytes) {
    return h5_refusal(array.node_.path, "its " + std::to_string(bytes) + " bytes are not in the file");
  }
  return array;
}

Status H5Array::check_storage() {
  const Handle creation(H5Dget_create_plist(node_.id.get()), H5Pclose);
  if (!creation) return node_.failed("its properties cannot be read");
  if (H5Pget_external_count(creation.get()) > 0) {
    return h5_refusal(node_.path, "found values in another file (external storage), allowed is this file");
  }
  const H5D_layout_t layout = H5Pget_layout(creation.get());
  if (layout == H5D_VIRTUAL) {
    return h5_refusal(node_.path, "found a virtual dataset, allowed are values in this file");
  }
  chunked_ = layout == H5D_CHUNKED;
  if (!chunked_) return {};
  std::array<hsize_t, 3> chunk{1, 1, 1};
  const int rank = H5Pget_chunk(creation.get(), 0, nullptr);
  if (rank < 1 || rank > 3) return h5_refusal(node_.path, "found " + std::to_string(rank) + " dimensions, allowed are 1 to 3");
  H5Pget_chunk(creation.get(), rank, chunk.data());
  const Handle type(H5Dget_type(node_.id.get()), H5Tclose);
  std::uint64_t bytes = std::max<std::uint64_t>(H5Tget_size(type.get()), 1);
  for (const hsize_t size : chunk) {
    if (size == 0 || size > kMaxChunkBytes / bytes) {
      return Error{ErrorCode::kLimitExceeded, kNoOffset, node_.path,
                   "found chunks above " + std::to_string(kMaxChunkBytes) + " bytes, which is the limit"};
    }
    bytes *= size;
  }
  std::copy(chunk.begin(), chunk.end(), grid_.chunk.begin());
  return check_filters(creation.get(), H5Tget_size(type.get()));
}

Status H5Array::check_filters(hid_t creation, std::size_t element_bytes) {
  const int count = H5Pget_nfilters(creation);
  for (int i = 0; i < count; ++i) {
    unsigned flags = 0;
    unsigned config = 0;
    std::array<unsigned, 8> parameters{};
    std::size_t values = parameters.size();
    std::array<char, 64> name{};
    const H5Z_filter_t filter = H5Pget_filter2(creation, static_cast<unsigned>(i), &flags, &values, parameters.data(),
                                               name.size() - 1, name.data(), &config);
    const bool whole = parameters[0] == 0 || parameters[0] == element_bytes;
    if (filter == H5Z_FILTER_SHUFFLE && whole && !shuffled_ && !deflated_) {
      shuffled_ = true;
    } else if (filter == H5Z_FILTER_DEFLATE && !deflated_) {
      deflated_ = true;
    } else {
      std::string text(name.data());
      for (char& c : text) c = c >= ' ' && c <= '~' ? c : '?';
      return h5_refusal(node_.path, "found filter " + std::to_string(filter) + (text.empty() ? "" : " (" + text + ")") +
                                        ", allowed are shuffle, then deflate");
    }
  }
  return {};
}

Status H5Array::read_rows(std::uint64_t first_row, std::uint64_t row_count, std::span<std::byte> out) const {
  if (out.empty()) return {};
  if (!chunked_) return read_plain(first_row, row_count, out);
  for (std::uint64_t row = first_row / grid_.chunk[0] * grid_.chunk[0]; row < first_row + row_count;
       row += grid_.chunk[0]) {
    for (std::uint64_t i = 0; i < grid_.across(); ++i) {
      const ChunkGrid::Shape origin = grid_.origin(row, i);
      auto chunk = chunk_at(origin);
      if (!chunk) return chunk.error();
      scatter_chunk(grid_, origin, **chunk, first_row, row_count, out);
    }
  }
  return {};
}

Status H5Array::read_plain(std::uint64_t first_row, std::uint64_t row_count, std::span<std::byte> out) const {
  const auto lock = node_.file->enter();
  const Handle space(H5Dget_space(node_.id.get()), H5Sclose);
  const hsize_t first[] = {first_row, 0, 0};
  const hsize_t count[] = {row_count, grid_.dims[1], grid_.dims[2]};
  H5Sselect_hyperslab(space.get(), H5S_SELECT_SET, first, nullptr, count, nullptr);
  const Handle memory(H5Screate_simple(static_cast<int>(rank_), count, nullptr), H5Sclose);
  if (H5Dread(node_.id.get(), type_.get(), memory.get(), space.get(), H5P_DEFAULT, out.data()) < 0) {
    return node_.failed("its values cannot be read");
  }
  return {};
}

/// The chunk's bytes as the file has them. The library's own reading would inflate without a bound.
Result<std::vector<std::byte>> H5Array::stored_chunk(const ChunkGrid::Shape& origin, std::uint32_t& filter_mask) const {
  const std::string where = "the chunk at row " + std::to_string(origin[0]);
  const hsize_t offset[] = {origin[0], origin[1], origin[2]};
  hsize_t size = 0;
  if (H5Dget_chunk_storage_size(node_.id.get(), offset, &size) < 0) return node_.failed(where);
  const std::uint64_t allowed = deflated_ ? deflate_bound(grid_.chunk_bytes()) : grid_.chunk_bytes();
  if (size == 0) return h5_refusal(node_.path, where + " is not in the file");
  if (size > allowed) {
    return h5_refusal(node_.path, where + ": found " + std::to_string(size) + " stored bytes, allowed are " +
                                      std::to_string(allowed));
  }
  std::vector<std::byte> stored(size);
  if (H5Dread_chunk(node_.id.get(), H5P_DEFAULT, offset, &filter_mask, stored.data()) < 0) return node_.failed(where);
  return stored;
}

Result<H5Array::Bytes> H5Array::chunk_at(const ChunkGrid::Shape& origin) const {
  std::uint32_t mask = 0;
  Result<std::vector<std::byte>> stored{std::vector<std::byte>()};
  {
    const auto lock = node_.file->enter();
    if (cache_->chunk != nullptr && cache_->origin == origin) return cache_->chunk;
    stored = stored_chunk(origin, mask);
  }
  if (!stored) return stored.error();
  const bool deflated = deflated_ && (mask >> (shuffled_ ? 1 : 0) & 1) == 0;
  const bool shuffled = shuffled_ && (mask & 1) == 0;
  std::vector<std::byte> bytes = std::move(*stored);
  if (deflated) {
    std::vector<std::byte> inflated(grid_.chunk_bytes());
    if (Status s = inflate(bytes, inflated); !s) return Error{s.error().code, kNoOffset, node_.path, s.error().detail};
    bytes = std::move(inflated);
  }
  if (bytes.size() != grid_.chunk_bytes()) {
    return Error{ErrorCode::kCorrupt, kNoOffset, node_.path,
                 "found a chunk of " + std::to_string(bytes.size()) + " bytes, allowed is " +
                     std::to_string(grid_.chunk_bytes())};
  }
  if (shuffled) {
    std::vector<std::byte> plain(bytes.size());
    unshuffle(bytes, grid_.element_bytes, plain);
    bytes = std::move(plain);
  }
  Bytes shared = std::make_shared<const std::vector<std::byte>>(std::move(bytes));
  const auto lock = node_.file->enter();
  *cache_ = {origin, shared};
  return shared;
}

Result<std::vector<std::byte>> read_all(const H5Array& array) {
  std::vector<std::byte> bytes(array.row_count() * array.grid().row_bytes());
  if (Status s = array.read_rows(0, array.row_count(), bytes); !s) return s.error();
  return bytes;
}

}  // namespace cachecard::hdf5
