#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "cachecard/io.hpp"

namespace cachecard::pytorch {

/// One file of a zip.
struct ZipEntry {
  std::string name;
  std::uint64_t offset = 0;  ///< of its bytes in the file
  std::uint64_t size = 0;    ///< of its bytes in the file
  std::uint32_t crc = 0;
  std::uint16_t method = 0;  ///< 0: stored as it is
};

/// The table of contents of a zip, with zip64. Nothing is ever decompressed.
/// Invariant: entries lie inside the file, do not overlap, and have different names; so nothing
/// that is read through them is larger than the file.
class ZipArchive {
 public:
  /// Errors: foreign_input (encrypted, of several disks, names twice), truncated,
  ///         corrupt, limit_exceeded, io.   Owns: nothing of source
  static Result<ZipArchive> open(const ByteSource& source);

  const std::vector<ZipEntry>& entries() const { return entries_; }  ///< ascending by name
  const ZipEntry* find(std::string_view name) const;
  /// Whether all entries are stored as they are, as torch.save writes them. Errors: foreign_input
  Status check_stored() const;

 private:
  std::vector<ZipEntry> entries_;
};

/// Whether the bytes of an entry have its CRC. Errors: checksum_mismatch, io
Status check_crc(const ByteSource& source, const ZipEntry& entry);

}  // namespace cachecard::pytorch
