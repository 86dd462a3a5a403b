#include "h5_read.hpp"

namespace cachecard::hdf5 {
namespace {

Status check_link(const H5Node& parent, const std::string& name) {
  auto there = has_link(parent, name);
  if (!there) return there.error();
  if (!*there) return h5_refusal(parent.child(name), "is missing");
  H5L_info_t info;
  if (H5Lget_info(parent.id.get(), name.c_str(), &info, H5P_DEFAULT) < 0) return parent.failed("link " + name);
  if (info.type == H5L_TYPE_HARD) return {};
  const std::string found = info.type == H5L_TYPE_EXTERNAL ? "an external link"
                            : info.type == H5L_TYPE_SOFT   ? "a soft link"
                                                           : "a link of type " + std::to_string(info.type);
  return h5_refusal(parent.child(name), "found " + found + ", allowed are hard links");
}

Result<H5Node> open_object(const H5Node& parent, const std::string& name, H5I_type_t kind) {
  if (Status s = check_link(parent, name); !s) return s.error();
  H5Node node{parent.file, Handle(H5Oopen(parent.id.get(), name.c_str(), H5P_DEFAULT), H5Oclose), parent.child(name)};
  if (!node.id) return node.failed("does not open");
  if (H5Iget_type(node.id.get()) == kind) return node;
  return h5_refusal(node.path, kind == H5I_GROUP ? "found no group" : "found no dataset");
}

Result<Handle> open_attribute(const H5Node& node, const std::string& name) {
  const std::string where = node.path + " attribute " + name;
  auto there = has_attribute(node, name);
  if (!there) return there.error();
  if (!*there) return h5_refusal(where, "is missing");
  Handle attribute(H5Aopen(node.id.get(), name.c_str(), H5P_DEFAULT), H5Aclose);
  if (!attribute) return node.failed("attribute " + name);
  const Handle space(H5Aget_space(attribute.get()), H5Sclose);
  if (H5Sget_simple_extent_type(space.get()) == H5S_SCALAR) return attribute;
  return h5_refusal(where, "found an array, allowed is one value");
}

Error wrong_type(const std::string& where, hid_t found, const std::string& allowed) {
  return h5_refusal(where, "found " + type_text(found) + ", allowed is " + allowed);
}

}  // namespace

Result<bool> has_link(const H5Node& parent, const std::string& name) {
  const htri_t there = H5Lexists(parent.id.get(), name.c_str(), H5P_DEFAULT);
  if (there < 0) return parent.failed("link " + name);
  return there > 0;
}

Result<H5Node> open_group(const H5Node& parent, const std::string& name) {
  return open_object(parent, name, H5I_GROUP);
}

Result<H5Node> open_dataset(const H5Node& parent, const std::string& name) {
  return open_object(parent, name, H5I_DATASET);
}

Result<bool> has_attribute(const H5Node& node, const std::string& name) {
  const htri_t there = H5Aexists(node.id.get(), name.c_str());
  if (there < 0) return node.failed("attribute " + name);
  return there > 0;
}

Status read_attribute(const H5Node& node, const std::string& name, hid_t type, std::span<std::byte> out) {
  auto attribute = open_attribute(node, name);
  if (!attribute) return attribute.error();
  const Handle found(H5Aget_type(attribute->get()), H5Tclose);
  if (H5Tequal(found.get(), type) <= 0 || H5Tget_size(type) != out.size()) {
    return wrong_type(node.path + " attribute " + name, found.get(), type_text(type));
  }
  if (H5Aread(attribute->get(), type, out.data()) < 0) return node.failed("attribute " + name);
  return {};
}

Result<Digest128> read_digest(const H5Node& node, const std::string& name) {
  Digest128 digest;
  const Handle type = bytes_type(digest.size());
  if (Status s = read_attribute(node, name, type.get(), std::as_writable_bytes(std::span(digest))); !s) {
    return s.error();
  }
  return digest;
}

Result<std::string> read_text(const H5Node& node, const std::string& name, std::size_t max_bytes) {
  auto attribute = open_attribute(node, name);
  if (!attribute) return attribute.error();
  const Handle type(H5Aget_type(attribute->get()), H5Tclose);
  const std::size_t size = H5Tget_size(type.get());
  const bool fixed = H5Tget_class(type.get()) == H5T_STRING && H5Tis_variable_str(type.get()) == 0;
  if (!fixed || size > max_bytes) {
    return wrong_type(node.path + " attribute " + name, type.get(),
                      "text of a fixed length up to " + std::to_string(max_bytes) + " bytes");
  }
  std::string text(size, '\0');
  if (H5Aread(attribute->get(), type.get(), text.data()) < 0) return node.failed("attribute " + name);
  while (!text.empty() && text.back() == '\0') text.pop_back();
  return text;
}

}  // namespace cachecard::hdf5
