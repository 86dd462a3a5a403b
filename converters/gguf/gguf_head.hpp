#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace cachecard::gguf {

/// Number of a value type. source: gguf.h enum gguf_type
template <class T>
inline constexpr std::uint32_t kValueType = ~0u;
template <>
inline constexpr std::uint32_t kValueType<std::uint8_t> = 0;
template <>
inline constexpr std::uint32_t kValueType<std::uint32_t> = 4;
template <>
inline constexpr std::uint32_t kValueType<std::int32_t> = 5;
template <>
inline constexpr std::uint32_t kValueType<std::uint64_t> = 10;
template <>
inline constexpr std::uint32_t kValueType<std::int64_t> = 11;
template <>
inline constexpr std::uint32_t kValueType<double> = 12;
inline constexpr std::uint32_t kStringType = 8;
inline constexpr std::uint32_t kArrayType = 9;

/// ggml's type of plain bytes. source: ggml.h enum ggml_type
inline constexpr std::uint32_t kI8Tensor = 24;

/// Tensor data of files that are written here begins at multiples of this, ggml's default.
inline constexpr std::uint64_t kAlignment = 32;
constexpr std::uint64_t padded(std::uint64_t size) {
  return (size + kAlignment - 1) / kAlignment * kAlignment;
}

/// What stands before the data of a GGUF v3 file: keys, then the tensor table.
class GgufHead {
 public:
  void text(std::string_view key, std::string_view value);
  template <class T>
  void number(std::string_view key, T value) {
    begin_key(key, kValueType<T>);
    put(keys_, value);
  }
  /// Leaves empty ones out: not every writer of GGUF has them.
  template <class T>
  void array(std::string_view key, std::span<const T> values) {
    if (values.empty()) return;
    begin_key(key, kArrayType);
    put(keys_, kValueType<T>);
    put(keys_, std::uint64_t{values.size()});
    append(keys_, std::as_bytes(values));
  }
  /// Its data stands behind that of the tensors before, padded. dims: fastest first.
  void tensor(std::string_view name, std::span<const std::uint64_t> dims, std::uint32_t type,
              std::uint64_t size);

  /// Padded: the data begins behind them.
  std::vector<std::byte> bytes() const;
  std::uint64_t data_size() const { return data_size_; }

 private:
  template <class T>
  static void put(std::vector<std::byte>& out, const T& value) {
    append(out, std::as_bytes(std::span(&value, 1)));
  }
  // Not insert(): g++ 12 warns of writes beyond the end that cannot be.
  static void append(std::vector<std::byte>& out, std::span<const std::byte> bytes) {
    const std::size_t size = out.size();
    out.resize(size + bytes.size());
    if (!bytes.empty()) std::memcpy(out.data() + size, bytes.data(), bytes.size());
  }
  static void put_text(std::vector<std::byte>& out, std::string_view text);
  void begin_key(std::string_view key, std::uint32_t type);

  std::vector<std::byte> keys_;
  std::vector<std::byte> tensors_;
  std::uint64_t key_count_ = 0;
  std::uint64_t tensor_count_ = 0;
  std::uint64_t data_size_ = 0;
};

}  // namespace cachecard::gguf
