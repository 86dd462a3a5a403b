#include "h5_card.hpp"

#include "coded_card.hpp"
#include "decoded_source.hpp"
#include "h5_layout.hpp"
#include "h5_write.hpp"

namespace cachecard::hdf5 {

Result<std::unique_ptr<H5Card>> open_h5_card(const ByteSource& source) {
  auto file = H5File::open(source);
  if (!file) return file.error();
  Digest128 parent_root{};
  std::string content;
  {
    const H5Node root = root_of(*file);
    if (!root.id) return root.failed("has no root group");
    auto ours = has_attribute(root, "format");
    if (!ours) return ours.error();
    if (!*ours) {
      return h5_refusal("/", "found an HDF5 file without the attribute format, allowed is one made as spec/HDF5.md says");
    }
    auto format = read_text(root, "format", 64);
    if (!format) return format.error();
    if (*format != kFormatName) return h5_refusal("/ attribute format", std::string("allowed is ") + kFormatName);
    auto version = read_number<std::uint32_t>(root, "layout_version");
    if (!version) return version.error();
    if (*version != kLayoutVersion) {
      return Error{ErrorCode::kUnsupportedVersion, kNoOffset, "/ attribute layout_version",
                   "found " + std::to_string(*version) + ", allowed is " + std::to_string(kLayoutVersion)};
    }
    auto named = read_text(root, "content", 64);
    if (!named) return named.error();
    content = *named;
    auto named_root = has_attribute(root, "root");
    if (!named_root) return named_root.error();
    if (*named_root) {
      auto digest = read_digest(root, "root");
      if (!digest) return digest.error();
      parent_root = *digest;
    }
  }
  if (content == kCoded) return open_coded_card(std::move(*file), parent_root);
  if (content == kDecoded) return open_decoded_card(std::move(*file), parent_root);
  return h5_refusal("/ attribute content", std::string("allowed are ") + kDecoded + " and " + kCoded);
}

}  // namespace cachecard::hdf5
