#pragma once

#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "cachecard/io.hpp"

/// A bounded forward reader for foreign files, and their errors.
namespace cachecard::llama_cpp {

inline Error foreign_error(std::uint64_t offset, std::string_view field, std::string detail) {
  return {ErrorCode::kForeignInput, offset, std::string(field), std::move(detail)};
}

/// Reads a source from front to back and never past its end. Small reads come out of a window, so
/// that walking a metadata table costs few system calls.
class ForeignReader {
 public:
  explicit ForeignReader(const ByteSource& source, std::uint64_t offset = 0, std::size_t window_bytes = 4096)
      : source_(source), offset_(offset), window_(window_bytes) {}

  std::uint64_t offset() const { return offset_; }
  std::uint64_t remaining() const { return source_.size() - offset_; }

  /// Fails with `truncated` unless count items of item_bytes are left: the bound before allocating.
  Status expect(std::uint64_t count, std::uint64_t item_bytes, std::string_view field) const;
  Status skip(std::uint64_t size, std::string_view field);
  Status read(std::span<std::byte> out, std::string_view field);

  template <class T>
  Result<T> value(std::string_view field) {
    static_assert(std::is_trivially_copyable_v<T>);
    T out{};
    auto status = read(std::as_writable_bytes(std::span(&out, 1)), field);
    if (!status) return status.error();
    return out;
  }

 private:
  const ByteSource& source_;
  std::uint64_t offset_ = 0;
  std::vector<std::byte> window_;
  std::uint64_t window_offset_ = 0;
  std::size_t window_size_ = 0;
};

}  // namespace cachecard::llama_cpp
