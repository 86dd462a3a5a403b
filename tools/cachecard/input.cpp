#include "input.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "cachecard/records.hpp"
#include "context.hpp"
#include "formats.hpp"
#include "output_file.hpp"

namespace cachecard::cli {
namespace {

Error open_error() {
  return {ErrorCode::kIo, kNoOffset, {}, fmt::format("cannot open: {}", std::strerror(errno))};
}

class InterruptibleSource final : public ByteSource {
 public:
  explicit InterruptibleSource(std::unique_ptr<ByteSource> source) : source_(std::move(source)) {}
  std::uint64_t size() const override { return source_->size(); }
  Status read_at(std::uint64_t offset, std::span<std::byte> out) const override {
    if (interrupted()) return interrupted_error();
    return source_->read_at(offset, out);
  }
  std::span<const std::byte> view(std::uint64_t offset, std::uint64_t size) const override {
    return source_->view(offset, size);
  }

 private:
  std::unique_ptr<ByteSource> source_;
};

class InterruptibleStream final : public ByteStream {
 public:
  InterruptibleStream(int fd, bool owned) : fd_(fd), owned_(owned), stream_(fd) {}
  InterruptibleStream(const InterruptibleStream&) = delete;
  InterruptibleStream& operator=(const InterruptibleStream&) = delete;
  ~InterruptibleStream() override {
    if (owned_) ::close(fd_);
  }
  Result<std::size_t> read(std::span<std::byte> out) override {
    if (Status s = wait_readable(fd_); !s) return s.error();
    return stream_.read(out);
  }

 private:
  int fd_;
  bool owned_;
  FdStream stream_;
};

}  // namespace

std::string input_name(const std::string& path) { return path == "-" ? "standard input" : path; }
std::string output_name(const std::string& path) { return path == "-" ? "standard output" : path; }

bool is_pipe(const std::string& path) {
  if (path == "-") return true;
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0 && !S_ISREG(info.st_mode) && !S_ISDIR(info.st_mode);
}

Result<std::unique_ptr<ByteStream>> open_input_stream(const std::string& path) {
  if (path == "-") {
    return std::unique_ptr<ByteStream>(new InterruptibleStream(STDIN_FILENO, false));
  }
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return open_error();
  struct stat info {};
  if (::fstat(fd, &info) == 0 && S_ISDIR(info.st_mode)) {
    ::close(fd);
    errno = EISDIR;
    return open_error();
  }
  return std::unique_ptr<ByteStream>(new InterruptibleStream(fd, true));
}

Result<std::unique_ptr<ByteSource>> open_input(const std::string& path) {
  if (is_pipe(path)) {
    auto stream = open_input_stream(path);
    if (!stream) return stream.error();
    return spool(**stream);
  }
  auto source = open_file(path);
  if (!source) return source.error();
  return std::unique_ptr<ByteSource>(new InterruptibleSource(std::move(*source)));
}

Result<std::size_t> read_up_to(ByteStream& stream, std::span<std::byte> out) {
  std::size_t filled = 0;
  while (filled < out.size()) {
    auto got = stream.read(out.subspan(filled));
    if (!got) return got.error();
    if (*got == 0) break;
    filled += *got;
  }
  return filled;
}

Result<std::size_t> HeadStream::read(std::span<std::byte> out) {
  if (taken_ == head_.size()) return rest_.read(out);
  const std::size_t size = std::min(out.size(), head_.size() - taken_);
  std::memcpy(out.data(), head_.data() + taken_, size);
  taken_ += size;
  return size;
}

Result<std::unique_ptr<ByteSource>> spool(ByteStream& stream) {
  auto file = UnlinkedFile::create();
  if (!file) return file.error();
  std::vector<std::byte> buffer(1u << 20);
  for (;;) {
    auto got = read_up_to(stream, buffer);
    if (!got) return got.error();
    if (*got == 0) break;
    if (Status s = (*file)->write(std::span(buffer).first(*got)); !s) return s.error();
  }
  return std::unique_ptr<ByteSource>(new UnlinkedSource(std::move(*file)));
}

InputKind kind_of(std::span<const std::byte> head) {
  if (head.empty()) return InputKind::kEmpty;
  // A few bytes of the magic, or "KVC" behind another first byte, are a card that was cut or went
  // through a text mode: its reader says which.
  const std::size_t size = std::min<std::size_t>(head.size(), 4);
  if (std::memcmp(head.data(), kMagic.data(), size) == 0) return InputKind::kCard;
  if (size == 4 && std::memcmp(head.data() + 1, kMagic.data() + 1, 3) == 0) return InputKind::kCard;
  for (const Format& format : formats()) {
    if (format.recognises != nullptr && format.recognises(head)) return format.kind;
  }
  return InputKind::kUnknown;
}

namespace {

Result<std::vector<std::byte>> head_of(const ByteSource& source) {
  std::vector<std::byte> head(std::min<std::uint64_t>(source.size(), kHeadBytes));
  if (Status s = source.read_at(0, head); !s) return s.error();
  return head;
}

}  // namespace

Result<InputKind> kind_of(const ByteSource& source) {
  auto head = head_of(source);
  if (!head) return head.error();
  return kind_of(*head);
}

Error unknown_input(InputKind kind, std::span<const std::byte> head) {
  if (kind == InputKind::kEmpty) return {ErrorCode::kTruncated, 0, {}, "the input is empty"};
  std::string found;
  for (std::byte b : head.first(std::min<std::size_t>(head.size(), 8))) {
    found += fmt::format("{}{:02x}", found.empty() ? "" : " ", static_cast<unsigned>(b));
  }
  std::string known = "neither a card";
  for (const Format& format : formats()) {
    if (format.recognises != nullptr) known += fmt::format(" nor {}", format.noun);
  }
  return {ErrorCode::kForeignInput, 0, {}, fmt::format("{}: the first bytes are {}", known, found)};
}

Error unknown_input(InputKind kind, const ByteSource& source) {
  auto head = head_of(source);
  if (!head) return head.error();
  return unknown_input(kind, *head);
}

}  // namespace cachecard::cli
