#include "gguf_builder.hpp"

#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace cachecard::llama_cpp::test {

Bytes GgufBuilder::string(const std::string& text) {
  Bytes out;
  append(out, static_cast<std::uint64_t>(text.size()));
  append(out, text.data(), text.size());
  return out;
}

void GgufBuilder::key(const std::string& name, std::uint32_t type) {
  const Bytes bytes = string(name);
  append(keys_, bytes.data(), bytes.size());
  append(keys_, type);
  ++key_count_;
}

GgufBuilder& GgufBuilder::text(const std::string& name, const std::string& value) {
  key(name, 8);
  const Bytes bytes = string(value);
  append(keys_, bytes.data(), bytes.size());
  return *this;
}

GgufBuilder& GgufBuilder::u32(const std::string& name, std::uint32_t value) {
  key(name, 4);
  append(keys_, value);
  return *this;
}

GgufBuilder& GgufBuilder::f32(const std::string& name, float value) {
  key(name, 6);
  append(keys_, value);
  return *this;
}

GgufBuilder& GgufBuilder::flag(const std::string& name, bool value) {
  key(name, 7);
  append(keys_, static_cast<std::uint8_t>(value));
  return *this;
}

GgufBuilder& GgufBuilder::i32s(const std::string& name, const std::vector<std::int32_t>& values) {
  key(name, 9);
  append(keys_, std::uint32_t{5});
  append(keys_, static_cast<std::uint64_t>(values.size()));
  append(keys_, values.data(), values.size() * 4);
  return *this;
}

GgufBuilder& GgufBuilder::flags(const std::string& name, const std::vector<bool>& values) {
  key(name, 9);
  append(keys_, std::uint32_t{7});
  append(keys_, static_cast<std::uint64_t>(values.size()));
  for (const bool value : values) append(keys_, static_cast<std::uint8_t>(value));
  return *this;
}

GgufBuilder& GgufBuilder::texts(const std::string& name, const std::vector<std::string>& values) {
  key(name, 9);
  append(keys_, std::uint32_t{8});
  append(keys_, static_cast<std::uint64_t>(values.size()));
  for (const auto& value : values) {
    const Bytes bytes = string(value);
    append(keys_, bytes.data(), bytes.size());
  }
  return *this;
}

GgufBuilder& GgufBuilder::tensor(const std::string& name, const std::vector<float>& values) {
  tensors_.push_back({name, values});
  return *this;
}

GgufBuilder GgufBuilder::model(const std::string& architecture, std::uint32_t layers) {
  GgufBuilder builder;
  builder.text("general.architecture", architecture);
  builder.u32(architecture + ".block_count", layers);
  builder.u32(architecture + ".embedding_length", 256);
  builder.u32(architecture + ".attention.head_count", 4);
  builder.u32(architecture + ".attention.head_count_kv", 2);
  return builder;
}

Bytes GgufBuilder::bytes() const {
  Bytes out;
  append(out, "GGUF", 4);
  append(out, std::uint32_t{3});
  append(out, static_cast<std::uint64_t>(tensors_.size()));
  append(out, key_count_);
  append(out, keys_.data(), keys_.size());
  std::uint64_t offset = 0;
  for (const auto& tensor : tensors_) {
    const Bytes name = string(tensor.name);
    append(out, name.data(), name.size());
    append(out, std::uint32_t{1});
    append(out, static_cast<std::uint64_t>(tensor.values.size()));
    append(out, std::uint32_t{0});
    append(out, offset);
    offset = (offset + tensor.values.size() * 4 + 31) / 32 * 32;
  }
  if (tensors_.empty()) return out;
  for (const auto& tensor : tensors_) {
    out.resize((out.size() + 31) / 32 * 32);
    append(out, tensor.values.data(), tensor.values.size() * 4);
  }
  return out;
}

ScratchFile::ScratchFile(const std::string& name, const Bytes& bytes)
    : folder_((std::filesystem::temp_directory_path() /
               ("cachecard_test_" + std::to_string(::getpid()) + "_" + name))
                  .string()),
      path_(folder_ + "/" + name) {
  std::filesystem::create_directories(folder_);
  write(bytes);
}

ScratchFile::~ScratchFile() {
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

void ScratchFile::write(const Bytes& bytes) const {
  std::ofstream out(path_, std::ios::binary | std::ios::trunc);
  out.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
}

Result<ModelFacts> facts_of(const GgufBuilder& builder) {
  const ScratchFile file("model.gguf", builder.bytes());
  return read_model(file.path());
}

}  // namespace cachecard::llama_cpp::test
