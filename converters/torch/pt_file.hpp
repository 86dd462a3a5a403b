#pragma once

#include <span>

#include "cachecard/io.hpp"
#include "pickle_values.hpp"

namespace cachecard::pytorch {

/// How torch.save laid a file out.
enum class PtContainer : std::uint8_t { kZip, kLegacy };
std::string_view name_of(PtContainer container) noexcept;

/// A file of torch.save: its values as data, and where each storage lies.
/// Invariant: every storage lies inside the file, and its checksum was right where there is one.
struct PtFile {
  PtContainer container = PtContainer::kZip;
  PickleValues values;
  PickleId root = 0;
  std::string prefix;  ///< of a zip's names, "archive"
};

/// Whether the first bytes are those of torch.save: a zip, or the magic of the legacy container.
bool looks_like_pt(std::span<const std::byte> head);

/// Reads all but the storages' values; those are read once where the container has checksums.
/// Errors: foreign_input (what the file names or needs, and what is allowed), truncated, corrupt,
///         checksum_mismatch, limit_exceeded, io
Result<PtFile> open_pt(const ByteSource& source);

/// The legacy container alone; open_pt calls it.
Result<PtFile> open_legacy_pt(const ByteSource& source);
bool looks_like_legacy_pt(std::span<const std::byte> head);

}  // namespace cachecard::pytorch
