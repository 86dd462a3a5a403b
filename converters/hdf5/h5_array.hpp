#pragma once

#include <memory>
#include <vector>

#include "chunk_grid.hpp"
#include "h5_read.hpp"

namespace cachecard::hdf5 {

/// What one dimension may be.
struct Extent {
  std::uint64_t min = 0;
  std::uint64_t max = 0;
};
constexpr Extent exactly(std::uint64_t count) { return {count, count}; }
constexpr Extent at_most(std::uint64_t count) { return {0, count}; }

/// A dataset of a file from anywhere. open() holds type, shape and storage to what is allowed: values in the file itself,
/// whole, one after the other or in chunks up to 16 MiB, shuffled and deflated at most.
class H5Array {
 public:
  /// types: allowed ones, of which type_index() is found. Errors: foreign_input, limit_exceeded (an extent above its
  ///        max, a chunk), corrupt
  static Result<H5Array> open(const H5Node& parent, const std::string& name, std::span<const hid_t> types,
                              std::span<const Extent> extents);

  std::size_t type_index() const { return type_index_; }
  const ChunkGrid& grid() const { return grid_; }
  std::uint64_t row_count() const { return grid_.dims[0]; }
  const std::string& path() const { return node_.path; }

  /// Rows along the first dimension, as the file's type has them. Thread-safe; memory: two chunks.
  /// Needs: rows inside, out of their size. Errors: corrupt, the source's
  Status read_rows(std::uint64_t first_row, std::uint64_t row_count, std::span<std::byte> out) const;

 private:
  using Bytes = std::shared_ptr<const std::vector<std::byte>>;
  struct Cache {
    ChunkGrid::Shape origin{};
    Bytes chunk;
  };
  Status check_storage();
  Status check_filters(hid_t creation, std::size_t element_bytes);
  Status read_plain(std::uint64_t first_row, std::uint64_t row_count, std::span<std::byte> out) const;
  Result<Bytes> chunk_at(const ChunkGrid::Shape& origin) const;
  Result<std::vector<std::byte>> stored_chunk(const ChunkGrid::Shape& origin, std::uint32_t& filter_mask) const;

  H5Node node_;
  Handle type_;
  ChunkGrid grid_;
  std::size_t rank_ = 1;
  std::size_t type_index_ = 0;
  bool chunked_ = false;
  bool shuffled_ = false;
  bool deflated_ = false;
  std::unique_ptr<Cache> cache_ = std::make_unique<Cache>();
};

/// All of a small array as records or numbers. Needs: the extents bound it
Result<std::vector<std::byte>> read_all(const H5Array& array);

template <class Number>
Result<std::vector<Number>> read_numbers(const H5Node& parent, const std::string& name, Extent extent) {
  const hid_t type = number_type<Number>();
  auto array = H5Array::open(parent, name, {&type, 1}, {&extent, 1});
  if (!array) return array.error();
  std::vector<Number> numbers(array->row_count());
  if (Status s = array->read_rows(0, numbers.size(), std::as_writable_bytes(std::span(numbers))); !s) return s.error();
  return numbers;
}

template <class Record>
Result<std::vector<Record>> read_records(const H5Node& parent, const std::string& name, Extent extent) {
  const Handle compound = record_type<Record>();
  const hid_t type = compound.get();
  auto array = H5Array::open(parent, name, {&type, 1}, {&extent, 1});
  if (!array) return array.error();
  auto bytes = read_all(*array);
  if (!bytes) return bytes.error();
  std::vector<Record> records;
  for (std::uint64_t i = 0; i < array->row_count(); ++i) {
    records.push_back(load<Record>(std::span(*bytes).subspan(i * encoded_size<Record>())));
  }
  return records;
}

}  // namespace cachecard::hdf5
