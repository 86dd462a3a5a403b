#include "h5_write.hpp"

#include <algorithm>

namespace cachecard::hdf5 {
namespace {

constexpr std::uint64_t kDeflateAbove = 64u << 10;  ///< bytes: less is not worth a chunk
constexpr std::uint64_t kChunkBytes = 1u << 20;     ///< what the library caches by default

Error cannot_write(const H5Node& node, const std::string& name) {
  return node.file->error(ErrorCode::kIo, node.child(name), "cannot be written");
}

/// Whole rows of the last dimensions, as many as a chunk takes.
std::vector<hsize_t> plan_chunk(std::span<const std::uint64_t> dims, std::uint64_t element_bytes) {
  std::vector<hsize_t> chunk(dims.size(), 1);
  std::uint64_t bytes = element_bytes;
  for (std::size_t i = dims.size(); i-- > 0;) {
    chunk[i] = std::clamp<std::uint64_t>(kChunkBytes / bytes, 1, std::max<std::uint64_t>(dims[i], 1));
    bytes *= chunk[i];
  }
  return chunk;
}

}  // namespace

H5Node root_of(const H5File& file) { return {&file, Handle(H5Gopen2(file.id(), "/", H5P_DEFAULT), H5Gclose), ""}; }

Result<H5Node> create_group(const H5Node& parent, const std::string& name) {
  const Handle creation(H5Pcreate(H5P_GROUP_CREATE), H5Pclose);
  H5Pset_obj_track_times(creation.get(), 0);
  H5Node group{parent.file,
               Handle(H5Gcreate2(parent.id.get(), name.c_str(), H5P_DEFAULT, creation.get(), H5P_DEFAULT), H5Gclose),
               parent.child(name)};
  if (!group.id) return cannot_write(parent, name);
  if (Status s = parent.file->written(); !s) return s.error();
  return group;
}

Status write_attribute(const H5Node& node, const std::string& name, hid_t type, const void* value) {
  const Handle space(H5Screate(H5S_SCALAR), H5Sclose);
  const Handle attribute(H5Acreate2(node.id.get(), name.c_str(), type, space.get(), H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
  if (!attribute || H5Awrite(attribute.get(), type, value) < 0) return cannot_write(node, name);
  return {};
}

Status write_text(const H5Node& node, const std::string& name, std::string_view text) {
  const Handle type = text_type(text.size());
  return write_attribute(node, name, type.get(), text.empty() ? "" : text.data());
}

Status write_digest(const H5Node& node, const std::string& name, const Digest128& digest) {
  const Handle type = bytes_type(digest.size());
  return write_attribute(node, name, type.get(), digest.data());
}

Result<H5Node> create_array(const H5Node& parent, const std::string& name, hid_t type,
                            std::span<const std::uint64_t> dims, const ArrayStorage& storage) {
  const std::vector<hsize_t> sizes(dims.begin(), dims.end());
  const Handle space(H5Screate_simple(static_cast<int>(sizes.size()), sizes.data(), nullptr), H5Sclose);
  const Handle creation(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  H5Pset_obj_track_times(creation.get(), 0);
  if (!storage.chunk.empty()) {
    H5Pset_chunk(creation.get(), static_cast<int>(storage.chunk.size()), storage.chunk.data());
    H5Pset_fill_time(creation.get(), H5D_FILL_TIME_NEVER);  // every chunk is written
    if (storage.deflate_level > 0) {
      H5Pset_shuffle(creation.get());
      H5Pset_deflate(creation.get(), static_cast<unsigned>(storage.deflate_level));
    }
  }
  H5Node array{parent.file,
               Handle(H5Dcreate2(parent.id.get(), name.c_str(), type, space.get(), H5P_DEFAULT, creation.get(),
                                 H5P_DEFAULT),
                      H5Dclose),
               parent.child(name)};
  if (!array.id) return cannot_write(parent, name);
  return array;
}

Status write_array(const H5Node& parent, const std::string& name, hid_t type, std::span<const std::uint64_t> dims,
                   std::span<const std::byte> bytes) {
  ArrayStorage storage;
  if (bytes.size() > kDeflateAbove) storage = {plan_chunk(dims, H5Tget_size(type)), 1};
  auto array = create_array(parent, name, type, dims, storage);
  if (!array) return array.error();
  if (!bytes.empty() && H5Dwrite(array->id.get(), type, H5S_ALL, H5S_ALL, H5P_DEFAULT, bytes.data()) < 0) {
    return cannot_write(parent, name);
  }
  return parent.file->written();
}

Status write_rows(const H5Node& array, hid_t type, std::uint64_t first_row, std::uint64_t row_count,
                  std::span<const std::byte> bytes) {
  const Handle space(H5Dget_space(array.id.get()), H5Sclose);
  std::vector<hsize_t> first(static_cast<std::size_t>(H5Sget_simple_extent_ndims(space.get())), 0);
  std::vector<hsize_t> count(first.size());
  H5Sget_simple_extent_dims(space.get(), count.data(), nullptr);
  first[0] = first_row;
  count[0] = row_count;
  H5Sselect_hyperslab(space.get(), H5S_SELECT_SET, first.data(), nullptr, count.data(), nullptr);
  const Handle memory(H5Screate_simple(static_cast<int>(count.size()), count.data(), nullptr), H5Sclose);
  if (H5Dwrite(array.id.get(), type, memory.get(), space.get(), H5P_DEFAULT, bytes.data()) < 0) {
    return array.file->error(ErrorCode::kIo, array.path, "cannot be written");
  }
  return array.file->written();
}

}  // namespace cachecard::hdf5
