#include "zip_archive.hpp"

#include <algorithm>
#include <cstring>
#include <optional>

#include "crc32.hpp"
#include "pt_error.hpp"

// source: APPNOTE.TXT 6.3.10, sections 4.3 and 4.5.3
namespace cachecard::pytorch {
namespace {

constexpr std::uint32_t kLocalMagic = 0x04034b50;
constexpr std::uint32_t kCentralMagic = 0x02014b50;
constexpr std::uint32_t kEndMagic = 0x06054b50;
constexpr std::uint32_t kEnd64Magic = 0x06064b50;
constexpr std::uint32_t kLocator64Magic = 0x07064b50;
constexpr std::size_t kLocalSize = 30;
constexpr std::size_t kCentralSize = 46;
constexpr std::size_t kEndSize = 22;
constexpr std::size_t kEnd64Size = 56;
constexpr std::size_t kLocator64Size = 20;
constexpr std::uint64_t kMaxEntries = 1u << 16;
constexpr std::uint64_t kMaxCentralBytes = 32u << 20;

template <class T>
T number(std::span<const std::byte> bytes, std::size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof(value));
  return value;
}

std::uint64_t u16(std::span<const std::byte> bytes, std::size_t at) {
  return number<std::uint16_t>(bytes, at);
}
std::uint64_t u32(std::span<const std::byte> bytes, std::size_t at) {
  return number<std::uint32_t>(bytes, at);
}
std::uint64_t u64(std::span<const std::byte> bytes, std::size_t at) {
  return number<std::uint64_t>(bytes, at);
}

bool within(std::uint64_t first, std::uint64_t count, std::uint64_t total) {
  return first <= total && count <= total - first;
}

Error cut(std::uint64_t offset, std::string_view field) {
  return {ErrorCode::kTruncated, offset, std::string(field), "the zip ends inside it"};
}

/// The table of contents: where it lies and how many entries it has.
struct Central {
  std::uint64_t offset = 0;
  std::uint64_t size = 0;
  std::uint64_t count = 0;
};

/// The zip64 record that a locator names, where there is one before the end record.
Result<std::optional<Central>> central64(const ByteSource& source, std::uint64_t end_offset) {
  if (end_offset < kLocator64Size) return std::optional<Central>();
  std::byte locator[kLocator64Size];
  if (Status s = source.read_at(end_offset - kLocator64Size, locator); !s) return s.error();
  if (u32(locator, 0) != kLocator64Magic) return std::optional<Central>();
  const std::uint64_t at = u64(locator, 8);
  if (!within(at, kEnd64Size, end_offset)) return cut(at, "zip64_end");
  std::byte end[kEnd64Size];
  if (Status s = source.read_at(at, end); !s) return s.error();
  if (u32(end, 0) != kEnd64Magic) {
    return Error{ErrorCode::kCorrupt, at, "zip64_end", "the locator points at something else"};
  }
  if (u32(end, 16) != 0 || u32(end, 20) != 0) return pt_error(at, "zip64_end", "a zip of several disks");
  return std::optional<Central>({u64(end, 48), u64(end, 40), u64(end, 32)});
}

Result<Central> find_central(const ByteSource& source) {
  const std::uint64_t size = source.size();
  if (size < kEndSize) return cut(0, "zip_end");
  const std::uint64_t tail_size = std::min<std::uint64_t>(size, kEndSize + 0xFFFF);
  std::vector<std::byte> tail(tail_size);
  if (Status s = source.read_at(size - tail_size, tail); !s) return s.error();
  for (std::size_t at = tail_size - kEndSize;; --at) {
    const auto end = std::span(tail).subspan(at);
    // Only a record whose comment reaches to the last byte is the end.
    if (u32(end, 0) == kEndMagic && u16(end, 20) == end.size() - kEndSize) {
      const std::uint64_t offset = size - tail_size + at;
      if (u16(end, 4) != 0 || u16(end, 6) != 0) return pt_error(offset, "zip_end", "a zip of several disks");
      auto wide = central64(source, offset);
      if (!wide) return wide.error();
      Central central = *wide ? **wide : Central{u32(end, 16), u32(end, 12), u16(end, 10)};
      if (!within(central.offset, central.size, offset)) return cut(central.offset, "zip_directory");
      return central;
    }
    if (at == 0) break;
  }
  return cut(size, "zip_end");
}

Error entry_error(std::uint64_t offset, const std::string& name, std::string detail) {
  return pt_error(offset, "zip_entry", "'" + shown(name) + "' " + std::move(detail));
}

/// One row of the table of contents.
struct Row {
  ZipEntry entry;
  std::uint64_t local_offset = 0;
  std::uint64_t row_size = 0;
};

/// Fields of 0xFFFFFFFF stand in the zip64 extra field, in this order.
Status widen(std::span<const std::byte> extra, std::uint64_t offset, std::uint64_t& compressed, Row& row) {
  for (std::size_t at = 0; extra.size() - at >= 4;) {
    const std::uint64_t id = u16(extra, at);
    const std::uint64_t size = u16(extra, at + 2);
    if (size > extra.size() - at - 4) break;
    auto field = extra.subspan(at + 4, size);
    at += 4 + size;
    if (id != 1) continue;
    for (std::uint64_t* value : {&row.entry.size, &compressed, &row.local_offset}) {
      if (*value != 0xFFFFFFFFu) continue;
      if (field.size() < 8) return cut(offset, "zip64_extra");
      *value = u64(field, 0);
      field = field.subspan(8);
    }
    break;
  }
  return {};
}

Result<Row> read_row(std::span<const std::byte> central, std::uint64_t offset) {
  if (central.size() < kCentralSize) return cut(offset, "zip_directory");
  if (u32(central, 0) != kCentralMagic) {
    return Error{ErrorCode::kCorrupt, offset, "zip_directory", "a row does not begin where one must"};
  }
  const std::uint64_t name_size = u16(central, 28);
  const std::uint64_t extra_size = u16(central, 30);
  Row row;
  row.row_size = kCentralSize + name_size + extra_size + u16(central, 32);
  if (row.row_size > central.size()) return cut(offset, "zip_directory");
  row.entry.name.assign(reinterpret_cast<const char*>(central.data()) + kCentralSize, name_size);
  if ((u16(central, 8) & 1) != 0) return entry_error(offset, row.entry.name, "is encrypted");
  row.entry.method = static_cast<std::uint16_t>(u16(central, 10));
  row.entry.crc = static_cast<std::uint32_t>(u32(central, 16));
  std::uint64_t compressed = u32(central, 20);
  row.entry.size = u32(central, 24);
  row.local_offset = u32(central, 42);
  const auto extra = central.subspan(kCentralSize + name_size, extra_size);
  if (Status s = widen(extra, offset, compressed, row); !s) return s.error();
  if (row.entry.method == 0 && compressed != row.entry.size) {
    return entry_error(offset, row.entry.name,
                       "is stored in " + std::to_string(compressed) + " bytes, but has " +
                           std::to_string(row.entry.size));
  }
  row.entry.size = compressed;
  return row;
}

/// Where the bytes of an entry begin: behind its local header, whose name must be the same.
Status place(const ByteSource& source, std::uint64_t limit, Row& row) {
  if (!within(row.local_offset, kLocalSize, limit)) return cut(row.local_offset, "zip_entry");
  std::byte local[kLocalSize];
  if (Status s = source.read_at(row.local_offset, local); !s) return s.error();
  const std::uint64_t name_size = u16(local, 26);
  if (u32(local, 0) != kLocalMagic || name_size != row.entry.name.size()) {
    return Error{ErrorCode::kCorrupt, row.local_offset, "zip_entry",
                 "'" + shown(row.entry.name) + "' is not where the directory says"};
  }
  row.entry.offset = row.local_offset + kLocalSize + name_size + u16(local, 28);
  if (!within(row.entry.offset, row.entry.size, limit)) return cut(row.entry.offset, "zip_entry");
  std::string name(name_size, '\0');
  if (Status s = source.read_at(row.local_offset + kLocalSize, std::as_writable_bytes(std::span(name))); !s) {
    return s;
  }
  if (name == row.entry.name) return {};
  return Error{ErrorCode::kCorrupt, row.local_offset, "zip_entry",
               "the directory calls it '" + shown(row.entry.name) + "', its header '" + shown(name) + "'"};
}

/// Overlapping entries would let a small file stand for a large one.
Status check_disjoint(std::vector<Row> rows) {
  std::sort(rows.begin(), rows.end(),
            [](const Row& a, const Row& b) { return a.local_offset < b.local_offset; });
  for (std::size_t i = 1; i < rows.size(); ++i) {
    const ZipEntry& before = rows[i - 1].entry;
    if (before.offset + before.size <= rows[i].local_offset) continue;
    return entry_error(rows[i].local_offset, rows[i].entry.name, "overlaps '" + shown(before.name) + "'");
  }
  return {};
}

}  // namespace

Result<ZipArchive> ZipArchive::open(const ByteSource& source) {
  auto central = find_central(source);
  if (!central) return central.error();
  if (central->count > kMaxEntries || central->size > kMaxCentralBytes) {
    return Error{ErrorCode::kLimitExceeded, central->offset, "zip_directory",
                 "found " + std::to_string(central->count) + " entries in " + std::to_string(central->size) +
                     " bytes, allowed 65536 in 33554432"};
  }
  std::vector<std::byte> bytes(central->size);
  if (Status s = source.read_at(central->offset, bytes); !s) return s.error();
  std::vector<Row> rows;
  auto rest = std::span<const std::byte>(bytes);
  for (std::uint64_t i = 0; i < central->count; ++i) {
    auto row = read_row(rest, central->offset + central->size - rest.size());
    if (!row) return row.error();
    if (Status s = place(source, central->offset, *row); !s) return s.error();
    rest = rest.subspan(row->row_size);
    rows.push_back(std::move(*row));
  }
  if (Status s = check_disjoint(rows); !s) return s.error();
  ZipArchive archive;
  for (Row& row : rows) archive.entries_.push_back(std::move(row.entry));
  std::sort(archive.entries_.begin(), archive.entries_.end(),
            [](const ZipEntry& a, const ZipEntry& b) { return a.name < b.name; });
  for (std::size_t i = 1; i < archive.entries_.size(); ++i) {
    const ZipEntry& entry = archive.entries_[i];
    if (entry.name == archive.entries_[i - 1].name)
      return entry_error(entry.offset, entry.name, "is there twice");
  }
  return archive;
}

const ZipEntry* ZipArchive::find(std::string_view name) const {
  const auto found = std::lower_bound(entries_.begin(), entries_.end(), name,
                                      [](const ZipEntry& e, std::string_view n) { return e.name < n; });
  return found != entries_.end() && found->name == name ? &*found : nullptr;
}

Status ZipArchive::check_stored() const {
  for (const ZipEntry& entry : entries_) {
    if (entry.method == 0) continue;
    return entry_error(entry.offset, entry.name,
                       "is compressed (method " + std::to_string(entry.method) +
                           "); allowed: stored (0), as torch.save writes");
  }
  return {};
}

Status check_crc(const ByteSource& source, const ZipEntry& entry) {
  std::vector<std::byte> block(std::min<std::uint64_t>(entry.size, 1u << 20));
  std::uint32_t crc = 0;
  for (std::uint64_t done = 0; done < entry.size;) {
    const auto part = std::span(block).first(std::min<std::uint64_t>(entry.size - done, block.size()));
    if (Status s = source.read_at(entry.offset + done, part); !s) return s;
    crc = crc32(crc, part);
    done += part.size();
  }
  if (crc == entry.crc) return {};
  return Error{ErrorCode::kChecksumMismatch, entry.offset, "zip_entry.crc",
               "'" + shown(entry.name) + "': found " + std::to_string(crc) + ", expected " +
                   std::to_string(entry.crc)};
}

}  // namespace cachecard::pytorch
