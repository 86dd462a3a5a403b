#pragma once

#include <string>
#include <vector>

#include "state_fixture.hpp"

namespace cachecard::llama_cpp::test {

/// Writes GGUF bytes by hand. Tensors are F32 with the given values.
class GgufBuilder {
 public:
  GgufBuilder& text(const std::string& key, const std::string& value);
  GgufBuilder& u32(const std::string& key, std::uint32_t value);
  GgufBuilder& f32(const std::string& key, float value);
  GgufBuilder& flag(const std::string& key, bool value);
  GgufBuilder& i32s(const std::string& key, const std::vector<std::int32_t>& values);
  GgufBuilder& flags(const std::string& key, const std::vector<bool>& values);
  GgufBuilder& texts(const std::string& key, const std::vector<std::string>& values);
  GgufBuilder& tensor(const std::string& name, const std::vector<float>& values);
  /// A model with heads, which most tests start from.
  static GgufBuilder model(const std::string& architecture, std::uint32_t layers);

  Bytes bytes() const;
  /// Bytes of a string as GGUF has them.
  static Bytes string(const std::string& text);

 private:
  void key(const std::string& name, std::uint32_t type);

  struct Tensor {
    std::string name;
    std::vector<float> values;
  };
  Bytes keys_;
  std::uint64_t key_count_ = 0;
  std::vector<Tensor> tensors_;
};

/// A file that is gone when the test ends.
class ScratchFile {
 public:
  explicit ScratchFile(const std::string& name, const Bytes& bytes = {});
  ~ScratchFile();
  ScratchFile(const ScratchFile&) = delete;
  ScratchFile& operator=(const ScratchFile&) = delete;
  const std::string& path() const { return path_; }
  const std::string& folder() const { return folder_; }
  void write(const Bytes& bytes) const;

 private:
  std::string folder_;
  std::string path_;
};

/// Facts of a model built by hand.
Result<ModelFacts> facts_of(const GgufBuilder& builder);

}  // namespace cachecard::llama_cpp::test
