#pragma once

#include <span>
#include <string>

#include "h5_types.hpp"

namespace cachecard::hdf5 {

/// What a file from anywhere may hold is looked at before it is followed: a link before its target, a type, a shape and
/// a storage before any value. Errors of all: foreign_input (what was found, what is allowed), corrupt, the source's

/// Whether a group has a link of that name, of any sort.
Result<bool> has_link(const H5Node& parent, const std::string& name);
/// Refuses soft, external and user-defined links.
Result<H5Node> open_group(const H5Node& parent, const std::string& name);
Result<H5Node> open_dataset(const H5Node& parent, const std::string& name);

Result<bool> has_attribute(const H5Node& node, const std::string& name);
/// A scalar attribute of exactly that type.
Status read_attribute(const H5Node& node, const std::string& name, hid_t type, std::span<std::byte> out);
template <class Number>
Result<Number> read_number(const H5Node& node, const std::string& name) {
  Number value{};
  if (Status s = read_attribute(node, name, number_type<Number>(), std::as_writable_bytes(std::span(&value, 1))); !s) {
    return s.error();
  }
  return value;
}
Result<Digest128> read_digest(const H5Node& node, const std::string& name);
/// A scalar text of fixed length, without the zeros that pad it.
Result<std::string> read_text(const H5Node& node, const std::string& name, std::size_t max_bytes);

}  // namespace cachecard::hdf5
