#pragma once

#include <map>
#include <string>
#include <vector>

#include "gguf/gguf_head.hpp"
#include "llama_cpp/gguf_model.hpp"

namespace cachecard::gguf::test {

using Bytes = std::vector<std::byte>;

/// A GGUF file taken apart, so that a test can break one thing of it and put it together again.
struct GgufSurgeon {
  struct Key {
    std::string name;
    std::uint32_t type = 0;
    Bytes value;
  };
  struct Tensor {
    std::string name;
    std::vector<std::uint64_t> dims;
    std::uint32_t type = 0;
    std::uint64_t offset = 0;
  };
  std::vector<Key> keys;
  std::vector<Tensor> tensors;
  Bytes data;

  explicit GgufSurgeon(const Bytes& file) {
    const MemorySource source(file);
    const auto parsed = *llama_cpp::read_gguf(source);
    for (const auto& [name, range] : parsed.ranges) {
      const auto* first = file.data() + range.offset;
      keys.push_back({name, range.type, Bytes(first, first + range.size)});
    }
    for (const auto& tensor : parsed.tensors) {
      tensors.push_back({tensor.name, tensor.dims, tensor.type, tensor.offset - parsed.data_offset});
    }
    data.assign(file.begin() + static_cast<std::ptrdiff_t>(parsed.data_offset), file.end());
  }

  Key& key(const std::string& name) {
    for (Key& key : keys) {
      if (key.name == name) return key;
    }
    throw std::runtime_error("no key " + name);
  }
  Tensor& tensor(const std::string& name) {
    for (Tensor& tensor : tensors) {
      if (tensor.name == name) return tensor;
    }
    throw std::runtime_error("no tensor " + name);
  }
  void drop(const std::string& name) {
    std::erase_if(keys, [&](const Key& key) { return key.name == name; });
  }
  template <class T>
  void set(const std::string& name, T value, std::size_t at = 0) {
    std::memcpy(key(name).value.data() + at, &value, sizeof(value));
  }

  Bytes bytes(std::uint64_t alignment = kAlignment) const {
    std::string out = "GGUF";  // g++ 12 sees overflows in vectors of bytes where none are
    const auto put = [&out](const auto& value) {
      out.append(reinterpret_cast<const char*>(&value), sizeof(value));
    };
    const auto text = [&](const std::string& value) {
      put(std::uint64_t{value.size()});
      out += value;
    };
    put(std::uint32_t{3});
    put(std::uint64_t{tensors.size()});
    put(std::uint64_t{keys.size()});
    for (const Key& key : keys) {
      text(key.name);
      put(key.type);
      out.append(reinterpret_cast<const char*>(key.value.data()), key.value.size());
    }
    for (const Tensor& tensor : tensors) {
      text(tensor.name);
      put(static_cast<std::uint32_t>(tensor.dims.size()));
      for (const std::uint64_t dim : tensor.dims) put(dim);
      put(tensor.type);
      put(tensor.offset);
    }
    out.resize((out.size() + alignment - 1) / alignment * alignment);
    out.append(reinterpret_cast<const char*>(data.data()), data.size());
    const auto bytes = std::as_bytes(std::span(out));
    return {bytes.begin(), bytes.end()};
  }
};

}  // namespace cachecard::gguf::test
