#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "h5_types.hpp"

namespace cachecard::hdf5 {

/// The root of a file that is being written or read.
H5Node root_of(const H5File& file);

/// Errors of all: io, and the sink's
Result<H5Node> create_group(const H5Node& parent, const std::string& name);

/// A scalar attribute of a type, its value as the file has it.
Status write_attribute(const H5Node& node, const std::string& name, hid_t type, const void* value);
Status write_text(const H5Node& node, const std::string& name, std::string_view text);
Status write_digest(const H5Node& node, const std::string& name, const Digest128& digest);
template <class Number>
Status write_number(const H5Node& node, const std::string& name, Number value) {
  return write_attribute(node, name, number_type<Number>(), &value);
}

/// How an array's elements lie in the file: one after the other, or in chunks that filters shrink.
struct ArrayStorage {
  std::vector<hsize_t> chunk;  ///< empty: one after the other
  int deflate_level = 0;       ///< 1 to 9, after the byte shuffle; 0: neither
};

/// An empty dataset. Shape: dims
Result<H5Node> create_array(const H5Node& parent, const std::string& name, hid_t type,
                            std::span<const std::uint64_t> dims, const ArrayStorage& storage = {});

/// A dataset with its values, bytes as the file's type has them; above 64 KiB shuffled and deflated.
Status write_array(const H5Node& parent, const std::string& name, hid_t type, std::span<const std::uint64_t> dims,
                   std::span<const std::byte> bytes);

/// Rows of an array without chunks. Needs: bytes are row_count rows
Status write_rows(const H5Node& array, hid_t type, std::uint64_t first_row, std::uint64_t row_count,
                  std::span<const std::byte> bytes);

template <class Number>
Status write_numbers(const H5Node& parent, const std::string& name, std::span<const Number> numbers) {
  const std::uint64_t dims[] = {numbers.size()};
  return write_array(parent, name, number_type<Number>(), dims, std::as_bytes(numbers));
}

/// A table of a card: one compound for each record, none of its bytes lost.
template <class Record>
Status write_records(const H5Node& parent, const std::string& name, std::span<const Record> records) {
  std::vector<std::byte> bytes(records.size() * encoded_size<Record>());
  for (std::size_t i = 0; i < records.size(); ++i) {
    store(records[i], std::span(bytes).subspan(i * encoded_size<Record>(), encoded_size<Record>()));
  }
  const Handle type = record_type<Record>();
  const std::uint64_t dims[] = {records.size()};
  return write_array(parent, name, type.get(), dims, bytes);
}

}  // namespace cachecard::hdf5
