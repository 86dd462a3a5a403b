#include "foreign_reader.hpp"

#include <algorithm>

namespace cachecard::llama_cpp {

Status ForeignReader::expect(std::uint64_t count, std::uint64_t item_bytes, std::string_view field) const {
  if (item_bytes == 0 || count <= remaining() / item_bytes) return {};
  return Error{ErrorCode::kTruncated, offset_, std::string(field),
               std::to_string(count) + " x " + std::to_string(item_bytes) + " bytes wanted, " +
                   std::to_string(remaining()) + " left"};
}

Status ForeignReader::skip(std::uint64_t size, std::string_view field) {
  auto status = expect(size, 1, field);
  if (!status) return status;
  offset_ += size;
  return {};
}

Status ForeignReader::read(std::span<std::byte> out, std::string_view field) {
  auto status = expect(out.size(), 1, field);
  if (!status || out.empty()) return status;
  if (out.size() > window_.size()) {
    status = source_.read_at(offset_, out);
    if (!status) return status;
    offset_ += out.size();
    return {};
  }
  const bool inside = offset_ >= window_offset_ && offset_ + out.size() <= window_offset_ + window_size_;
  if (!inside) {
    window_size_ = static_cast<std::size_t>(std::min<std::uint64_t>(window_.size(), remaining()));
    window_offset_ = offset_;
    status = source_.read_at(offset_, std::span(window_).first(window_size_));
    if (!status) {
      window_size_ = 0;
      return status;
    }
  }
  std::memcpy(out.data(), window_.data() + (offset_ - window_offset_), out.size());
  offset_ += out.size();
  return {};
}

}  // namespace cachecard::llama_cpp
