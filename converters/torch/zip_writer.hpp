#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "cachecard/io.hpp"

namespace cachecard::pytorch {

/// Writes stored entries in one forward pass, each on a multiple of 64 bytes, as torch.save does.
class ZipWriter {
 public:
  /// zip64_from: sizes and offsets from here on take the zip64 form (tests lower it).
  explicit ZipWriter(ByteSink& sink, std::uint64_t zip64_from = 0xFFFFFFFFu)
      : sink_(sink), zip64_from_(zip64_from) {}

  /// Needs: a name of at most 65,535 bytes, not used before. Errors: the sink's
  Status add(std::string_view name, std::span<const std::byte> bytes);
  /// The table of contents. Errors: the sink's
  Status finish();
  std::uint64_t size() const { return offset_; }

 private:
  struct Row {
    std::string name;
    std::uint64_t offset;
    std::uint64_t size;
    std::uint32_t crc;
  };
  Status write(std::span<const std::byte> bytes);
  bool wide(std::uint64_t number) const { return number >= zip64_from_; }
  void append_row(const Row& row, std::vector<std::byte>& out) const;

  ByteSink& sink_;
  std::uint64_t zip64_from_;
  std::uint64_t offset_ = 0;
  std::vector<Row> rows_;
};

}  // namespace cachecard::pytorch
