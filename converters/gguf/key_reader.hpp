#pragma once

#include <vector>

#include "cachecard/io.hpp"
#include "gguf_head.hpp"
#include "llama_cpp/gguf_model.hpp"

namespace cachecard::gguf {

inline Error gguf_error(std::string_view field, std::string detail) {
  return {ErrorCode::kForeignInput, kNoOffset, std::string(field), std::move(detail)};
}

/// Keys of one file by name, each of exactly one type.
class KeyReader {
 public:
  KeyReader(const ByteSource& source, const llama_cpp::GgufFile& file) : source_(source), file_(file) {}

  bool has(const std::string& key) const { return file_.keys.contains(key); }
  /// Keys that are prefix and a number from 1 to 65535, with their types.
  std::vector<std::pair<std::uint16_t, std::uint32_t>> numbered(std::string_view prefix) const;
  /// Errors of all: foreign_input naming the key: missing, of another type, more than allowed
  Result<std::string> text(const std::string& key) const;  ///< at most as long as a section of a card may be
  template <class T>
  Result<T> number(const std::string& key) const {
    auto range = range_of(key, kValueType<T>);
    if (!range) return range.error();
    T value{};
    if (Status s = source_.read_at(range->offset, std::as_writable_bytes(std::span(&value, 1))); !s)
      return s.error();
    return value;
  }
  /// Empty where the key is missing.
  template <class T>
  Result<std::vector<T>> array(const std::string& key, std::uint64_t most) const {
    if (!has(key)) return std::vector<T>();
    auto found = array_of(key, kValueType<T>, most);
    if (!found) return found.error();
    std::vector<T> values(static_cast<std::size_t>(found->count));
    if (Status s = source_.read_at(found->offset, std::as_writable_bytes(std::span(values))); !s)
      return s.error();
    return values;
  }

 private:
  Result<llama_cpp::GgufRange> range_of(const std::string& key, std::uint32_t type) const;
  Result<llama_cpp::GgufArray> array_of(const std::string& key, std::uint32_t type, std::uint64_t most) const;

  const ByteSource& source_;
  const llama_cpp::GgufFile& file_;
};

}  // namespace cachecard::gguf
