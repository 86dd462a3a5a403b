#include "output_file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "context.hpp"
#include "input.hpp"

namespace cachecard::cli {
namespace {

Error io_error(const std::string& what) {
  return {ErrorCode::kIo, kNoOffset, {}, what + ": " + std::strerror(errno)};
}

int open_unlinked(const char* folder) {
  const int fd = ::open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (fd >= 0) return fd;
  std::string path = std::string(folder) + "/cachecard.XXXXXX";  // no O_TMPFILE there
  const int named = ::mkostemp(path.data(), O_CLOEXEC);
  if (named >= 0) ::unlink(path.c_str());
  return named;
}

/// A pipe or device, whose waits end with `interrupted` once a signal came.
class PipeSink final : public ByteSink {
 public:
  PipeSink(int fd, bool owned) : fd_(fd), owned_(owned) {}
  PipeSink(const PipeSink&) = delete;
  PipeSink& operator=(const PipeSink&) = delete;
  ~PipeSink() override {
    if (owned_) ::close(fd_);
  }
  Status write(std::span<const std::byte> bytes) override {
    while (!bytes.empty()) {
      if (Status s = wait_writable(fd_); !s) return s;
      const ssize_t put = ::write(fd_, bytes.data(), std::min(bytes.size(), kPiece));
      if (put < 0 && (errno == EINTR || errno == EAGAIN)) continue;
      if (put < 0) return io_error("write failed");
      bytes = bytes.subspan(static_cast<std::size_t>(put));
    }
    return {};
  }
  Status commit() override { return {}; }

 private:
  static constexpr std::size_t kPiece = 64u << 10;
  int fd_;
  bool owned_;
};

Result<std::unique_ptr<PipeSink>> open_pipe(const std::string& path) {
  if (path == "-") return std::make_unique<PipeSink>(STDOUT_FILENO, false);
  const int fd = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
  if (fd < 0) return io_error("cannot open");
  return std::make_unique<PipeSink>(fd, true);
}

/// Takes positions in an UnlinkedFile and gives its bytes to a pipe at commit.
class RandomPipeSink final : public RandomSink {
 public:
  RandomPipeSink(std::unique_ptr<UnlinkedFile> file, std::unique_ptr<PipeSink> pipe)
      : file_(std::move(file)), pipe_(std::move(pipe)) {}
  Status write(std::span<const std::byte> bytes) override { return file_->write(bytes); }
  Status reserve(std::uint64_t size) override { return file_->reserve(size); }
  Status write_at(std::uint64_t offset, std::span<const std::byte> bytes) override {
    return file_->write_at(offset, bytes);
  }
  Status read_at(std::uint64_t offset, std::span<std::byte> out) const override {
    return file_->read_at(offset, out);
  }
  Status commit() override {
    auto size = file_->size();
    if (!size) return size.error();
    std::vector<std::byte> buffer(1u << 20);
    for (std::uint64_t offset = 0; offset < *size; offset += buffer.size()) {
      buffer.resize(std::min<std::uint64_t>(buffer.size(), *size - offset));
      if (Status s = file_->read_at(offset, buffer); !s) return s;
      if (Status s = pipe_->write(buffer); !s) return s;
    }
    return {};
  }

 private:
  std::unique_ptr<UnlinkedFile> file_;
  std::unique_ptr<PipeSink> pipe_;
};

/// Takes everything, keeps nothing: --dry-run. Reading back gives zeros.
class NowhereSink final : public RandomSink {
 public:
  Status write(std::span<const std::byte>) override { return {}; }
  Status commit() override { return {}; }
  Status reserve(std::uint64_t) override { return {}; }
  Status write_at(std::uint64_t, std::span<const std::byte>) override { return {}; }
  Status read_at(std::uint64_t, std::span<std::byte> out) const override {
    std::fill(out.begin(), out.end(), std::byte{0});
    return {};
  }
};

}  // namespace

Result<std::unique_ptr<UnlinkedFile>> UnlinkedFile::create() {
  const char* chosen = std::getenv("TMPDIR");
  if (chosen != nullptr && *chosen != '\0') {
    const int fd = open_unlinked(chosen);
    if (fd < 0) return io_error(std::string("cannot create a temporary file in ") + chosen);
    return std::unique_ptr<UnlinkedFile>(new UnlinkedFile(fd));
  }
  for (const char* folder : std::array{"/var/tmp", "/tmp"}) {
    const int fd = open_unlinked(folder);
    if (fd >= 0) return std::unique_ptr<UnlinkedFile>(new UnlinkedFile(fd));
  }
  return io_error("cannot create a temporary file in /var/tmp or /tmp");
}

UnlinkedFile::~UnlinkedFile() { ::close(fd_); }

Status UnlinkedFile::write(std::span<const std::byte> bytes) {
  if (Status s = write_at(position_, bytes); !s) return s;
  position_ += bytes.size();
  return {};
}

Status UnlinkedFile::reserve(std::uint64_t size) {
  if (size == 0) return {};
  errno = ::posix_fallocate(fd_, 0, static_cast<off_t>(size));
  if (errno != 0) return io_error("cannot reserve " + std::to_string(size) + " bytes");
  return {};
}

Status UnlinkedFile::write_at(std::uint64_t offset, std::span<const std::byte> bytes) {
  if (interrupted()) return interrupted_error();
  while (!bytes.empty()) {
    const ssize_t put = ::pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return io_error("writing a temporary file failed");
    offset += static_cast<std::uint64_t>(put);
    bytes = bytes.subspan(static_cast<std::size_t>(put));
  }
  return {};
}

Status UnlinkedFile::read_at(std::uint64_t offset, std::span<std::byte> out) const {
  if (interrupted()) return interrupted_error();
  while (!out.empty()) {
    const ssize_t got = ::pread(fd_, out.data(), out.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return io_error("reading a temporary file failed");
    if (got == 0) return Error{ErrorCode::kTruncated, offset, {}, "the input ends here"};
    offset += static_cast<std::uint64_t>(got);
    out = out.subspan(static_cast<std::size_t>(got));
  }
  return {};
}

Result<std::uint64_t> UnlinkedFile::size() const {
  struct stat info {};
  if (::fstat(fd_, &info) != 0) return io_error("fstat failed");
  return static_cast<std::uint64_t>(info.st_size);
}

UnlinkedSource::UnlinkedSource(std::unique_ptr<UnlinkedFile> file) : file_(std::move(file)) {
  auto size = file_->size();
  size_ = size ? *size : 0;
}

Status UnlinkedSource::read_at(std::uint64_t offset, std::span<std::byte> out) const {
  if (offset > size_ || out.size() > size_ - offset) {
    return Error{ErrorCode::kTruncated,
                 size_,
                 {},
                 std::to_string(out.size()) + " bytes wanted at " + std::to_string(offset) +
                     ", but the input has " + std::to_string(size_)};
  }
  return file_->read_at(offset, out);
}

Result<std::unique_ptr<RandomSink>> open_random_output(const std::string& path, bool dry_run) {
  if (dry_run) return std::unique_ptr<RandomSink>(new NowhereSink());
  if (!is_pipe(path)) return create_file(path);
  auto file = UnlinkedFile::create();
  if (!file) return file.error();
  auto pipe = open_pipe(path);
  if (!pipe) return pipe.error();
  return std::unique_ptr<RandomSink>(new RandomPipeSink(std::move(*file), std::move(*pipe)));
}

Result<std::unique_ptr<ByteSink>> open_output(const std::string& path, bool dry_run) {
  if (is_pipe(path) && !dry_run) {
    auto pipe = open_pipe(path);
    if (!pipe) return pipe.error();
    return std::unique_ptr<ByteSink>(std::move(*pipe));
  }
  auto sink = open_random_output(path, dry_run);
  if (!sink) return sink.error();
  return std::unique_ptr<ByteSink>(std::move(*sink));
}

}  // namespace cachecard::cli
