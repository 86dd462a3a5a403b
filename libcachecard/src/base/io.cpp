#include "cachecard/io.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.hpp"

namespace cachecard {
namespace {

Error io_error(const std::string& what) {
  return {ErrorCode::kIo, kNoOffset, {}, what + ": " + std::strerror(errno)};
}

Error short_source(std::uint64_t offset, std::uint64_t wanted, std::uint64_t size) {
  return {ErrorCode::kTruncated, size, {},
          std::to_string(wanted) + " bytes wanted at " + std::to_string(offset) +
              ", but the input has " + std::to_string(size)};
}

class FileSource final : public ByteSource {
 public:
  FileSource(int fd, std::uint64_t size) : fd_(fd), size_(size) {}
  ~FileSource() override { ::close(fd_); }
  std::uint64_t size() const override { return size_; }
  Status read_at(std::uint64_t offset, std::span<std::byte> out) const override {
    if (!span_within(offset, out.size(), size_)) return short_source(offset, out.size(), size_);
    while (!out.empty()) {
      const ssize_t got = ::pread(fd_, out.data(), out.size(), static_cast<off_t>(offset));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return io_error("read failed");
      if (got == 0) return short_source(offset, out.size(), offset);
      offset += static_cast<std::uint64_t>(got);
      out = out.subspan(static_cast<std::size_t>(got));
    }
    return {};
  }

 private:
  int fd_;
  std::uint64_t size_;
};

class MappedSource final : public ByteSource {
 public:
  explicit MappedSource(std::span<const std::byte> bytes) : memory_(bytes), bytes_(bytes) {}
  ~MappedSource() override {
    if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
  }
  std::uint64_t size() const override { return bytes_.size(); }
  Status read_at(std::uint64_t offset, std::span<std::byte> out) const override {
    return memory_.read_at(offset, out);
  }
  std::span<const std::byte> view(std::uint64_t offset, std::uint64_t size) const override {
    return memory_.view(offset, size);
  }

 private:
  MemorySource memory_;
  std::span<const std::byte> bytes_;
};

struct OpenedFile {
  int fd;
  std::uint64_t size;
};

Result<OpenedFile> open_regular(const std::string& path) {
  // O_NONBLOCK: a FIFO without a writer must be refused below, not waited for.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return io_error("cannot open");
  struct stat info {};
  if (::fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    ::close(fd);
    return Error{ErrorCode::kIo, kNoOffset, {}, "not a regular file"};
  }
  return OpenedFile{fd, static_cast<std::uint64_t>(info.st_size)};
}

std::string folder_of(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

class FileSink final : public RandomSink {
 public:
  FileSink(int fd, std::string temporary, std::string path, FileSinkOptions options)
      : fd_(fd), temporary_(std::move(temporary)), path_(std::move(path)), options_(options) {}
  ~FileSink() override {
    if (fd_ >= 0) ::close(fd_);
    if (!committed_) ::unlink(temporary_.c_str());
  }
  Status write(std::span<const std::byte> bytes) override {
    if (Status s = write_at(position_, bytes); !s) return s;
    position_ += bytes.size();
    return {};
  }
  Status reserve(std::uint64_t size) override {
    if (size == 0) return {};
    const int failed = ::posix_fallocate(fd_, 0, static_cast<off_t>(size));
    if (failed == 0) return {};
    errno = failed;
    return io_error("cannot reserve " + std::to_string(size) + " bytes");
  }
  Status write_at(std::uint64_t offset, std::span<const std::byte> bytes) override {
    while (!bytes.empty()) {
      const ssize_t put = ::pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
      if (put < 0 && errno == EINTR) continue;
      if (put < 0) return io_error("write failed");
      offset += static_cast<std::uint64_t>(put);
      bytes = bytes.subspan(static_cast<std::size_t>(put));
    }
    return {};
  }
  Status read_at(std::uint64_t offset, std::span<std::byte> out) const override {
    while (!out.empty()) {
      const ssize_t got = ::pread(fd_, out.data(), out.size(), static_cast<off_t>(offset));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return io_error("read failed");
      if (got == 0) return short_source(offset, out.size(), offset);
      offset += static_cast<std::uint64_t>(got);
      out = out.subspan(static_cast<std::size_t>(got));
    }
    return {};
  }
  Status commit() override {
    if (options_.sync && ::fsync(fd_) != 0) return io_error("fsync failed");
    if (options_.overwrite) {
      if (::rename(temporary_.c_str(), path_.c_str()) != 0) return io_error("rename failed");
    } else if (::link(temporary_.c_str(), path_.c_str()) != 0) {
      return io_error("cannot create");  // link, unlike rename, never replaces
    } else {
      ::unlink(temporary_.c_str());
    }
    committed_ = true;
    if (options_.sync) sync_folder();
    return {};
  }

 private:
  void sync_folder() const {
    const int folder = ::open(folder_of(path_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0) return;
    ::fsync(folder);  // some file systems refuse it on folders: the rename stands all the same
    ::close(folder);
  }

  int fd_;
  std::string temporary_;
  std::string path_;
  FileSinkOptions options_;
  std::uint64_t position_ = 0;
  bool committed_ = false;
};

}  // namespace

std::span<const std::byte> ByteSource::view(std::uint64_t, std::uint64_t) const { return {}; }

Result<std::unique_ptr<ByteSource>> open_file(const std::string& path) {
  auto opened = open_regular(path);
  if (!opened) return opened.error();
  return std::unique_ptr<ByteSource>(new FileSource(opened->fd, opened->size));
}

Result<std::unique_ptr<ByteSource>> map_file(const std::string& path) {
  auto opened = open_regular(path);
  if (!opened) return opened.error();
  std::span<const std::byte> bytes;
  if (opened->size > 0) {
    void* base = ::mmap(nullptr, opened->size, PROT_READ, MAP_SHARED, opened->fd, 0);
    if (base == MAP_FAILED) {
      const Error error = io_error("cannot map");
      ::close(opened->fd);
      return error;
    }
    bytes = {static_cast<const std::byte*>(base), opened->size};
  }
  ::close(opened->fd);
  return std::unique_ptr<ByteSource>(new MappedSource(bytes));
}

Status MemorySource::read_at(std::uint64_t offset, std::span<std::byte> out) const {
  if (!span_within(offset, out.size(), bytes_.size())) {
    return short_source(offset, out.size(), bytes_.size());
  }
  if (!out.empty()) std::memcpy(out.data(), bytes_.data() + offset, out.size());
  return {};
}

std::span<const std::byte> MemorySource::view(std::uint64_t offset, std::uint64_t size) const {
  if (!span_within(offset, size, bytes_.size())) return {};
  return bytes_.subspan(offset, size);
}

Result<std::size_t> FdStream::read(std::span<std::byte> out) {
  for (;;) {
    const ssize_t got = ::read(fd_, out.data(), out.size());
    if (got >= 0) return static_cast<std::size_t>(got);
    if (errno != EINTR) return io_error("read failed");
  }
}

Result<std::size_t> SourceStream::read(std::span<std::byte> out) {
  const std::uint64_t left = source_.size() - offset_;
  const std::size_t size = static_cast<std::size_t>(std::min<std::uint64_t>(left, out.size()));
  if (Status s = source_.read_at(offset_, out.first(size)); !s) return s.error();
  offset_ += size;
  return size;
}

Result<std::unique_ptr<RandomSink>> create_file(const std::string& path, FileSinkOptions options) {
  struct stat info {};
  if (::stat(path.c_str(), &info) == 0 && !S_ISREG(info.st_mode)) {
    return Error{ErrorCode::kIo, kNoOffset, {}, "not a regular file"};
  }
  for (unsigned attempt = 0; attempt < 100; ++attempt) {
    std::string temporary =
        path + "." + std::to_string(::getpid()) + "." + std::to_string(attempt) + ".tmp";
    const int fd = ::open(temporary.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd >= 0) {
      return std::unique_ptr<RandomSink>(new FileSink(fd, std::move(temporary), path, options));
    }
    if (errno != EEXIST) return io_error("cannot create a file in " + folder_of(path));
  }
  return io_error("cannot create a temporary file in " + folder_of(path));
}

Status FdSink::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t put = ::write(fd_, bytes.data(), bytes.size());
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return io_error("write failed");
    bytes = bytes.subspan(static_cast<std::size_t>(put));
  }
  return {};
}

std::span<std::byte> RandomSink::place(std::uint64_t, std::uint64_t) { return {}; }

std::span<std::byte> MemorySink::place(std::uint64_t offset, std::uint64_t size) {
  if (size > bytes_.size() || offset > bytes_.size() - size) return {};
  return std::span(bytes_).subspan(offset, size);
}

Status MemorySink::write(std::span<const std::byte> bytes) {
  if (Status s = write_at(position_, bytes); !s) return s;
  position_ += bytes.size();
  return {};
}

Status MemorySink::reserve(std::uint64_t size) {
  if (size > bytes_.size()) bytes_.resize(size);
  return {};
}

Status MemorySink::write_at(std::uint64_t offset, std::span<const std::byte> bytes) {
  if (Status s = reserve(offset + bytes.size()); !s) return s;
  if (!bytes.empty()) std::memcpy(bytes_.data() + offset, bytes.data(), bytes.size());
  return {};
}

Status MemorySink::read_at(std::uint64_t offset, std::span<std::byte> out) const {
  return MemorySource(bytes_).read_at(offset, out);
}

void ParallelFor::operator()(std::size_t count, void (*task)(void*, std::size_t),
                             void* context) const {
  if (run != nullptr && count > 1) {
    run(user, count, task, context);
    return;
  }
  for (std::size_t i = 0; i < count; ++i) task(context, i);
}

}  // namespace cachecard
