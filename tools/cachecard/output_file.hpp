#pragma once

#include <memory>
#include <string>

#include "cachecard/io.hpp"

namespace cachecard::cli {

/// A temporary file without a name, in TMPDIR, else /var/tmp or /tmp. Gone when closed.
class UnlinkedFile final : public RandomSink {
 public:
  /// Errors: io
  static Result<std::unique_ptr<UnlinkedFile>> create();
  UnlinkedFile(const UnlinkedFile&) = delete;
  UnlinkedFile& operator=(const UnlinkedFile&) = delete;
  ~UnlinkedFile() override;

  Status write(std::span<const std::byte> bytes) override;
  Status commit() override { return {}; }
  Status reserve(std::uint64_t size) override;
  Status write_at(std::uint64_t offset, std::span<const std::byte> bytes) override;
  Status read_at(std::uint64_t offset, std::span<std::byte> out) const override;
  Result<std::uint64_t> size() const;

 private:
  explicit UnlinkedFile(int fd) : fd_(fd) {}
  int fd_;
  std::uint64_t position_ = 0;
};

/// A finished UnlinkedFile to read from.
class UnlinkedSource final : public ByteSource {
 public:
  explicit UnlinkedSource(std::unique_ptr<UnlinkedFile> file);
  std::uint64_t size() const override { return size_; }
  Status read_at(std::uint64_t offset, std::span<std::byte> out) const override;

 private:
  std::unique_ptr<UnlinkedFile> file_;
  std::uint64_t size_;
};

/// Where a command's bytes go: a file (replaced atomically by commit), a pipe, or nowhere.
/// Errors of both: io
Result<std::unique_ptr<ByteSink>> open_output(const std::string& path, bool dry_run);
/// The same with positions. A pipe takes the bytes at commit, out of an UnlinkedFile.
Result<std::unique_ptr<RandomSink>> open_random_output(const std::string& path, bool dry_run);

}  // namespace cachecard::cli
