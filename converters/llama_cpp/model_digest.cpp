#include "model_digest.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <sstream>

#include "cachecard/card.hpp"
#include "cachecard/digest.hpp"
#include "ggml_types.hpp"

namespace cachecard::llama_cpp {
namespace {

constexpr std::size_t kBlockBytes = 4u << 20;
constexpr std::uint64_t kMaxCacheBytes = 1u << 20;
constexpr std::size_t kMaxCacheLines = 256;
constexpr const char* kCacheName = "model-digests.txt";

template <class Number>
void update(Digester& digester, Number number) {
  digester.update(std::as_bytes(std::span(&number, 1)));
}

Status update_tensor(Digester& digester, const ByteSource& source, const GgufTensor& tensor,
                     std::span<std::byte> block) {
  update(digester, static_cast<std::uint32_t>(tensor.name.size()));
  digester.update(std::as_bytes(std::span(tensor.name)));
  update(digester, tensor.type);
  update(digester, static_cast<std::uint32_t>(tensor.dims.size()));
  for (const std::uint64_t dim : tensor.dims) update(digester, dim);
  for (std::uint64_t done = 0; done < tensor.size;) {
    const auto count = static_cast<std::size_t>(std::min<std::uint64_t>(tensor.size - done, block.size()));
    auto status = source.read_at(tensor.offset + done, block.first(count));
    if (!status) return status;
    digester.update(block.first(count));
    done += count;
  }
  return {};
}

/// What a file is as long as nobody touches it. Empty: it cannot be asked.
std::string file_key(const std::string& path) {
  struct stat facts {};
  if (::stat(path.c_str(), &facts) != 0) return {};
  const auto nanoseconds = [](const timespec& time) {
    return static_cast<long long>(time.tv_sec) * 1'000'000'000LL + time.tv_nsec;
  };
  std::ostringstream key;
  key << facts.st_dev << ' ' << facts.st_ino << ' ' << facts.st_size << ' ' << nanoseconds(facts.st_mtim)
      << ' ' << nanoseconds(facts.st_ctim) << ' ';
  return key.str();
}

/// Lines "device inode size mtime ctime digest". Anything else in the file is skipped.
std::vector<std::string> read_cache(const std::string& path) {
  std::vector<std::string> lines;
  auto source = open_file(path);
  if (!source || (*source)->size() > kMaxCacheBytes) return lines;
  std::string text(static_cast<std::size_t>((*source)->size()), '\0');
  if (!(*source)->read_at(0, std::as_writable_bytes(std::span(text)))) return lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) {
    const auto space = line.rfind(' ');
    if (space == std::string::npos || !digest_from_hex(line.substr(space + 1))) continue;
    lines.push_back(line);
  }
  return lines;
}

void write_cache(const std::string& path, std::vector<std::string> lines) {
  if (lines.size() > kMaxCacheLines) {
    lines.erase(lines.begin(), lines.end() - kMaxCacheLines);
  }
  std::string text;
  for (const auto& line : lines) text += line + "\n";
  auto sink = create_file(path, {.sync = false, .overwrite = true});
  if (!sink) return;
  if ((*sink)->write(std::as_bytes(std::span(text)))) {
    const auto committed = (*sink)->commit();
    (void)committed;  // a cache that is not written costs time, nothing else
  }
}

}  // namespace

Result<std::optional<Digest128>> weights_digest(const ByteSource& source, const GgufFile& file) {
  if (file.tensors.empty() || file.u64("split.count").value_or(1) > 1) {
    return std::optional<Digest128>();
  }
  std::vector<const GgufTensor*> tensors;
  for (const auto& tensor : file.tensors) {
    if (ggml_type(tensor.type) == nullptr) return std::optional<Digest128>();
    tensors.push_back(&tensor);
  }
  std::sort(tensors.begin(), tensors.end(),
            [](const GgufTensor* a, const GgufTensor* b) { return a->name < b->name; });
  Digester digester;
  std::vector<std::byte> block(kBlockBytes);
  for (const GgufTensor* tensor : tensors) {
    auto status = update_tensor(digester, source, *tensor, block);
    if (!status) return status.error();
  }
  return std::optional(digester.finish128());
}

Result<std::optional<Digest128>> cached_weights_digest(const std::string& path, const ByteSource& source,
                                                       const GgufFile& file, const std::string& folder) {
  const std::string key = folder.empty() ? std::string() : file_key(path);
  if (key.empty()) return weights_digest(source, file);
  const std::string cache = folder + "/" + kCacheName;
  auto lines = read_cache(cache);
  for (const auto& line : lines) {
    if (line.starts_with(key)) return digest_from_hex(line.substr(key.size()));
  }
  auto digest = weights_digest(source, file);
  // A file that changed while it was read must not leave its digest behind.
  if (!digest || !*digest || file_key(path) != key) return digest;
  std::error_code ignored;
  std::filesystem::create_directories(folder, ignored);
  lines.push_back(key + to_hex(**digest));
  write_cache(cache, std::move(lines));
  return digest;
}

}  // namespace cachecard::llama_cpp
