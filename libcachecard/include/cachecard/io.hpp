#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cachecard/error.hpp"

namespace cachecard {

/// Bytes at positions: a file, the caller's memory, a caller's callback.
/// read_at is thread-safe. A short source gives `truncated`, a failing one `io`.
class ByteSource {
 public:
  virtual ~ByteSource() = default;
  virtual std::uint64_t size() const = 0;
  /// Fills out from offset, wholly or with an error.
  virtual Status read_at(std::uint64_t offset, std::span<std::byte> out) const = 0;
  /// The bytes in place where the source has them in memory; empty otherwise.
  virtual std::span<const std::byte> view(std::uint64_t offset, std::uint64_t size) const;
};

/// Positioned reads (pread) of a file that stays open. Errors: io
Result<std::unique_ptr<ByteSource>> open_file(const std::string& path);

/// Memory-mapped file: no copies, but reading faults if another process shrinks the file.
Result<std::unique_ptr<ByteSource>> map_file(const std::string& path);

/// The caller's bytes. Owns: nothing; bytes must outlive the source.
class MemorySource final : public ByteSource {
 public:
  explicit MemorySource(std::span<const std::byte> bytes) : bytes_(bytes) {}
  std::uint64_t size() const override { return bytes_.size(); }
  Status read_at(std::uint64_t offset, std::span<std::byte> out) const override;
  std::span<const std::byte> view(std::uint64_t offset, std::uint64_t size) const override;

 private:
  std::span<const std::byte> bytes_;
};

/// Bytes in order: a pipe, a socket, a file.
class ByteStream {
 public:
  virtual ~ByteStream() = default;
  /// Reads up to out.size() bytes; 0 only at the end. Errors: io
  virtual Result<std::size_t> read(std::span<std::byte> out) = 0;
};

/// Reads an open descriptor in order. Owns: nothing; the descriptor stays the caller's.
class FdStream final : public ByteStream {
 public:
  explicit FdStream(int fd) : fd_(fd) {}
  Result<std::size_t> read(std::span<std::byte> out) override;

 private:
  int fd_;
};

/// A ByteSource read in order.
class SourceStream final : public ByteStream {
 public:
  explicit SourceStream(const ByteSource& source) : source_(source) {}
  Result<std::size_t> read(std::span<std::byte> out) override;

 private:
  const ByteSource& source_;
  std::uint64_t offset_ = 0;
};

/// Where bytes go, in order.
class ByteSink {
 public:
  virtual ~ByteSink() = default;
  virtual Status write(std::span<const std::byte> bytes) = 0;
  /// Makes what was written final (files: fsync as asked, then rename). Without it nothing stays.
  virtual Status commit() = 0;
};

/// A sink that also takes bytes at positions before commit.
class RandomSink : public ByteSink {
 public:
  /// Declares the final size, so that the space is there before work starts. Errors: io (disk full)
  virtual Status reserve(std::uint64_t size) = 0;
  /// Thread-safe on disjoint ranges.
  virtual Status write_at(std::uint64_t offset, std::span<const std::byte> bytes) = 0;
  /// Reads back what was written.
  virtual Status read_at(std::uint64_t offset, std::span<std::byte> out) const = 0;
  /// Reserved bytes in place, to be filled there, where the sink has them in memory; empty otherwise.
  virtual std::span<std::byte> place(std::uint64_t offset, std::uint64_t size);
};

struct FileSinkOptions {
  bool sync = true;       ///< fsync file and folder before and after the rename
  bool overwrite = true;  ///< replace an existing file (atomically); false: io error
};

/// A temporary file beside path, renamed over it by commit; removed if commit never comes.
Result<std::unique_ptr<RandomSink>> create_file(const std::string& path, FileSinkOptions options = {});

/// An open descriptor (a pipe). Owns: nothing.
class FdSink final : public ByteSink {
 public:
  explicit FdSink(int fd) : fd_(fd) {}
  Status write(std::span<const std::byte> bytes) override;
  Status commit() override { return {}; }

 private:
  int fd_;
};

/// Grows in memory; for tests and small cards.
class MemorySink final : public RandomSink {
 public:
  Status write(std::span<const std::byte> bytes) override;
  Status commit() override { return {}; }
  Status reserve(std::uint64_t size) override;
  Status write_at(std::uint64_t offset, std::span<const std::byte> bytes) override;
  Status read_at(std::uint64_t offset, std::span<std::byte> out) const override;
  std::span<std::byte> place(std::uint64_t offset, std::uint64_t size) override;
  std::vector<std::byte>& bytes() { return bytes_; }

 private:
  std::vector<std::byte> bytes_;
  std::uint64_t position_ = 0;
};

/// Memory for scratch; without functions the library's own. Called from whatever threads run tasks.
struct Allocator {
  void* (*allocate)(void* user, std::size_t size, std::size_t alignment) = nullptr;  ///< nullptr: out_of_memory
  void (*release)(void* user, void* pointer, std::size_t size) = nullptr;
  void* user = nullptr;
};

/// Runs task(context, i) for every i below count, on threads or not, and returns when all are done.
/// The library starts no thread of its own; without one it runs them in order.
struct ParallelFor {
  void (*run)(void* user, std::size_t count, void (*task)(void* context, std::size_t index),
              void* context) = nullptr;
  void* user = nullptr;
  std::size_t width = 1;  ///< how many tasks may run at once: bounds the memory in flight

  void operator()(std::size_t count, void (*task)(void*, std::size_t), void* context) const;
};

}  // namespace cachecard
