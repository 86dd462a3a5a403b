#include "gguf_head.hpp"

namespace cachecard::gguf {

void GgufHead::put_text(std::vector<std::byte>& out, std::string_view text) {
  put(out, std::uint64_t{text.size()});
  append(out, std::as_bytes(std::span(text)));
}

void GgufHead::begin_key(std::string_view key, std::uint32_t type) {
  put_text(keys_, key);
  put(keys_, type);
  ++key_count_;
}

void GgufHead::text(std::string_view key, std::string_view value) {
  begin_key(key, kStringType);
  put_text(keys_, value);
}

void GgufHead::tensor(std::string_view name, std::span<const std::uint64_t> dims, std::uint32_t type,
                      std::uint64_t size) {
  put_text(tensors_, name);
  put(tensors_, static_cast<std::uint32_t>(dims.size()));
  for (const std::uint64_t dim : dims) put(tensors_, dim);
  put(tensors_, type);
  put(tensors_, data_size_);
  data_size_ += padded(size);
  ++tensor_count_;
}

std::vector<std::byte> GgufHead::bytes() const {
  std::vector<std::byte> out;
  constexpr std::uint32_t kVersion = 3;
  append(out, std::as_bytes(std::span(std::string_view("GGUF"))));
  put(out, kVersion);
  put(out, tensor_count_);
  put(out, key_count_);
  append(out, keys_);
  append(out, tensors_);
  out.resize(padded(out.size()));
  return out;
}

}  // namespace cachecard::gguf
