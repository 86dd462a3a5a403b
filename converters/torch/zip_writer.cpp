#include "zip_writer.hpp"

#include "crc32.hpp"

// source: APPNOTE.TXT 6.3.10, sections 4.3 and 4.5.3
namespace cachecard::pytorch {
namespace {

constexpr std::size_t kLocalSize = 30;
constexpr std::uint32_t kFull32 = 0xFFFFFFFFu;
constexpr std::uint16_t kFull16 = 0xFFFFu;
constexpr std::uint16_t kUtf8Names = 1u << 11;
constexpr std::uint16_t kVersion = 45;        // zip64
constexpr std::uint16_t kDate = 0x21;         // 1980-01-01: no time is written
constexpr std::uint16_t kPaddingId = 0x4246;  // torch's "FB"
constexpr std::uint64_t kAlignment = 64;

template <class T>
void put(std::vector<std::byte>& out, T value) {
  const auto bytes = std::as_bytes(std::span(&value, 1));
  out.insert(out.end(), bytes.begin(), bytes.end());
}

void put_text(std::vector<std::byte>& out, std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text));
  out.insert(out.end(), bytes.begin(), bytes.end());
}

std::uint32_t narrow(bool wide, std::uint64_t value) {
  return wide ? kFull32 : static_cast<std::uint32_t>(value);
}

}  // namespace

Status ZipWriter::write(std::span<const std::byte> bytes) {
  offset_ += bytes.size();
  return sink_.write(bytes);
}

Status ZipWriter::add(std::string_view name, std::span<const std::byte> bytes) {
  const Row row{std::string(name), offset_, bytes.size(), crc32(0, bytes)};
  const bool large = wide(row.size);
  const std::uint64_t extra64 = large ? 20 : 0;
  const std::uint64_t before = offset_ + kLocalSize + name.size() + extra64 + 4;
  const std::uint64_t padding = (kAlignment - before % kAlignment) % kAlignment;
  std::vector<std::byte> head;
  put(head, std::uint32_t{0x04034b50});
  put(head, kVersion);
  put(head, kUtf8Names);
  put(head, std::uint16_t{0});  // stored
  put(head, std::uint16_t{0});
  put(head, kDate);
  put(head, row.crc);
  put(head, narrow(large, row.size));
  put(head, narrow(large, row.size));
  put(head, static_cast<std::uint16_t>(name.size()));
  put(head, static_cast<std::uint16_t>(extra64 + 4 + padding));
  put_text(head, name);
  if (large) {
    put(head, std::uint16_t{1});
    put(head, std::uint16_t{16});
    put(head, row.size);
    put(head, row.size);
  }
  put(head, kPaddingId);
  put(head, static_cast<std::uint16_t>(padding));
  head.resize(head.size() + padding);
  rows_.push_back(row);
  if (Status s = write(head); !s) return s;
  return write(bytes);
}

void ZipWriter::append_row(const Row& row, std::vector<std::byte>& out) const {
  const bool large = wide(row.size);
  const bool far = wide(row.offset);
  std::vector<std::byte> extra;
  if (large) {
    put(extra, row.size);
    put(extra, row.size);
  }
  if (far) put(extra, row.offset);
  put(out, std::uint32_t{0x02014b50});
  put(out, kVersion);
  put(out, kVersion);
  put(out, kUtf8Names);
  put(out, std::uint16_t{0});
  put(out, std::uint16_t{0});
  put(out, kDate);
  put(out, row.crc);
  put(out, narrow(large, row.size));
  put(out, narrow(large, row.size));
  put(out, static_cast<std::uint16_t>(row.name.size()));
  put(out, static_cast<std::uint16_t>(extra.empty() ? 0 : extra.size() + 4));
  put(out, std::uint16_t{0});
  put(out, std::uint16_t{0});
  put(out, std::uint16_t{0});
  put(out, std::uint32_t{0});
  put(out, narrow(far, row.offset));
  put_text(out, row.name);
  if (extra.empty()) return;
  put(out, std::uint16_t{1});
  put(out, static_cast<std::uint16_t>(extra.size()));
  out.insert(out.end(), extra.begin(), extra.end());
}

Status ZipWriter::finish() {
  std::vector<std::byte> out;
  const std::uint64_t start = offset_;
  for (const Row& row : rows_) append_row(row, out);
  const std::uint64_t size = out.size();
  const bool far = wide(start) || wide(size) || rows_.size() >= kFull16;
  if (far) {
    const std::uint64_t end64 = start + size;
    put(out, std::uint32_t{0x06064b50});
    put(out, std::uint64_t{44});
    put(out, kVersion);
    put(out, kVersion);
    put(out, std::uint32_t{0});
    put(out, std::uint32_t{0});
    put(out, std::uint64_t{rows_.size()});
    put(out, std::uint64_t{rows_.size()});
    put(out, size);
    put(out, start);
    put(out, std::uint32_t{0x07064b50});
    put(out, std::uint32_t{0});
    put(out, end64);
    put(out, std::uint32_t{1});
  }
  const auto count = static_cast<std::uint16_t>(far ? kFull16 : rows_.size());
  put(out, std::uint32_t{0x06054b50});
  put(out, std::uint16_t{0});
  put(out, std::uint16_t{0});
  put(out, count);
  put(out, count);
  put(out, narrow(far, size));
  put(out, narrow(far, start));
  put(out, std::uint16_t{0});
  return write(out);
}

}  // namespace cachecard::pytorch
