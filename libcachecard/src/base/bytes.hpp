#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "cachecard/layout.hpp"

namespace cachecard {

/// Appends to a growing payload, in the order of the spec.
class ByteWriter {
 public:
  template <class Record>
  void record(const Record& value) {
    const std::size_t at = bytes_.size();
    bytes_.resize(at + encoded_size<Record>());
    store(value, std::span(bytes_).subspan(at));
  }
  void raw(std::span<const std::byte> bytes) {
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
  }
  void text(std::string_view text) { raw(std::as_bytes(std::span(text))); }
  template <class Number>
  void numbers(std::span<const Number> values) {
    raw(std::as_bytes(values));
  }
  void pad_to(std::size_t size) { bytes_.resize(size); }
  std::size_t size() const { return bytes_.size(); }
  std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

/// The only way to turn card bytes into an array of numbers. Needs: bytes is whole items.
template <class Number>
std::vector<Number> load_numbers(std::span<const std::byte> bytes) {
  std::vector<Number> values(bytes.size() / sizeof(Number));
  if (!values.empty()) std::memcpy(values.data(), bytes.data(), values.size() * sizeof(Number));
  return values;
}

}  // namespace cachecard
