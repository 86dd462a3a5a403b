#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <thread>

#include "cachecard/io.hpp"

using namespace cachecard;
namespace fs = std::filesystem;

namespace {

/// A folder of its own, removed at the end.
class TempFolder {
 public:
  TempFolder() {
    char name[] = "/tmp/cachecard_io_XXXXXX";
    path_ = ::mkdtemp(name);
  }
  ~TempFolder() { fs::remove_all(path_); }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  std::size_t file_count() const {
    return static_cast<std::size_t>(std::distance(fs::directory_iterator(path_), fs::directory_iterator()));
  }

 private:
  std::string path_;
};

std::vector<std::byte> bytes_of(std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

std::string content_of(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

ErrorCode write_and_commit(const std::string& path, std::string_view text, FileSinkOptions options = {}) {
  auto sink = create_file(path, options);
  if (!sink) return sink.error().code;
  if (Status s = (*sink)->write(bytes_of(text)); !s) return s.error().code;
  if (Status s = (*sink)->commit(); !s) return s.error().code;
  return ErrorCode::kOk;
}

}  // namespace

TEST_CASE("a file appears whole with commit and not before", "[unit]") {
  const TempFolder folder;
  auto sink = create_file(folder / "card");
  REQUIRE(sink);
  REQUIRE((*sink)->write(bytes_of("one ")));
  REQUIRE((*sink)->write(bytes_of("two")));
  CHECK_FALSE(fs::exists(folder / "card"));
  REQUIRE((*sink)->commit());
  sink->reset();
  CHECK(content_of(folder / "card") == "one two");
  CHECK(folder.file_count() == 1);
}

TEST_CASE("without commit no file stays, and an old one is untouched", "[unit]") {
  const TempFolder folder;
  REQUIRE(write_and_commit(folder / "card", "old") == ErrorCode::kOk);
  {
    auto sink = create_file(folder / "card");
    REQUIRE(sink);
    REQUIRE((*sink)->write(bytes_of("new")));
  }
  CHECK(content_of(folder / "card") == "old");
  CHECK(folder.file_count() == 1);
}

TEST_CASE("commit replaces an old file; without overwrite it refuses and keeps it", "[unit]") {
  const TempFolder folder;
  REQUIRE(write_and_commit(folder / "card", "old") == ErrorCode::kOk);
  CHECK(write_and_commit(folder / "card", "newer") == ErrorCode::kOk);
  CHECK(content_of(folder / "card") == "newer");
  CHECK(write_and_commit(folder / "card", "third", {.sync = false, .overwrite = false}) == ErrorCode::kIo);
  CHECK(content_of(folder / "card") == "newer");
  CHECK(write_and_commit(folder / "other", "x", {.sync = false, .overwrite = false}) == ErrorCode::kOk);
  CHECK(folder.file_count() == 2);
}

TEST_CASE("new files have the permissions that the umask leaves", "[unit]") {
  const TempFolder folder;
  const mode_t old = ::umask(0027);
  REQUIRE(write_and_commit(folder / "card", "x") == ErrorCode::kOk);
  ::umask(old);
  struct stat info {};
  REQUIRE(::stat((folder / "card").c_str(), &info) == 0);
  CHECK((info.st_mode & 0777) == 0640);
}

TEST_CASE("a folder that is not there or a path that is no file is an io error", "[unit]") {
  const TempFolder folder;
  CHECK(write_and_commit(folder / "no/card", "x") == ErrorCode::kIo);
  fs::create_directory(folder / "sub");
  CHECK(write_and_commit(folder / "sub", "x") == ErrorCode::kIo);
  CHECK(open_file(folder / "sub").error().code == ErrorCode::kIo);
  CHECK(open_file(folder / "nothing").error().code == ErrorCode::kIo);
  CHECK(map_file(folder / "nothing").error().code == ErrorCode::kIo);
}

TEST_CASE("opening a FIFO is an error, not a wait", "[unit]") {
  const TempFolder folder;
  REQUIRE(::mkfifo((folder / "fifo").c_str(), 0600) == 0);
  CHECK(open_file(folder / "fifo").error().code == ErrorCode::kIo);
  CHECK(map_file(folder / "fifo").error().code == ErrorCode::kIo);
}

TEST_CASE("a full disk is an io error, and nothing stays", "[unit]") {
  // /dev/full stands for the disk: every write fails with ENOSPC.
  const int full = ::open("/dev/full", O_WRONLY);
  REQUIRE(full >= 0);
  FdSink sink(full);
  const Status status = sink.write(bytes_of("x"));
  REQUIRE_FALSE(status);
  CHECK(status.error().code == ErrorCode::kIo);
  ::close(full);

  const TempFolder folder;
  {
    auto file = create_file(folder / "card");
    REQUIRE(file);
    const Status reserved = (*file)->reserve(1ull << 60);
    REQUIRE_FALSE(reserved);
    CHECK(reserved.error().code == ErrorCode::kIo);
  }
  CHECK(folder.file_count() == 0);
}

TEST_CASE("random sinks take bytes at positions and give them back", "[unit]") {
  const TempFolder folder;
  auto file = create_file(folder / "card");
  REQUIRE(file);
  MemorySink memory;
  for (RandomSink* sink : std::initializer_list<RandomSink*>{file->get(), &memory}) {
    REQUIRE(sink->reserve(10));
    REQUIRE(sink->write_at(6, bytes_of("tail")));
    REQUIRE(sink->write_at(0, bytes_of("head")));
    std::vector<std::byte> out(10);
    REQUIRE(sink->read_at(0, out));
    CHECK(out == bytes_of(std::string_view("head\0\0tail", 10)));
    std::vector<std::byte> beyond(2);
    CHECK(sink->read_at(9, beyond).error().code == ErrorCode::kTruncated);
  }
}

TEST_CASE("file, map and memory give the same bytes, and are short in the same way", "[unit]") {
  const TempFolder folder;
  REQUIRE(write_and_commit(folder / "card", "0123456789") == ErrorCode::kOk);
  const auto bytes = bytes_of("0123456789");
  const auto file = open_file(folder / "card");
  const auto map = map_file(folder / "card");
  const MemorySource memory(bytes);
  REQUIRE(file);
  REQUIRE(map);
  for (const ByteSource* source :
       std::initializer_list<const ByteSource*>{file->get(), map->get(), &memory}) {
    CHECK(source->size() == 10);
    std::vector<std::byte> out(4);
    REQUIRE(source->read_at(3, out));
    CHECK(out == bytes_of("3456"));
    CHECK(source->read_at(10, std::span<std::byte>()));
    for (std::uint64_t offset : {7ull, 10ull, 11ull, ~0ull, ~0ull - 3}) {
      const Status status = source->read_at(offset, out);
      REQUIRE_FALSE(status);
      CHECK(status.error().code == ErrorCode::kTruncated);
      CHECK(status.error().offset == 10);
    }
    CHECK(source->view(8, 3).empty());
    CHECK(source->view(~0ull, 2).empty());
  }
  CHECK((*file)->view(0, 4).empty());
  CHECK((*map)->view(2, 3).size() == 3);
}

TEST_CASE("an empty file can be opened and mapped", "[unit]") {
  const TempFolder folder;
  REQUIRE(write_and_commit(folder / "card", "") == ErrorCode::kOk);
  CHECK(open_file(folder / "card").value()->size() == 0);
  CHECK(map_file(folder / "card").value()->size() == 0);
}

TEST_CASE("a file that shrinks after opening is truncated, not a crash", "[unit]") {
  const TempFolder folder;
  REQUIRE(write_and_commit(folder / "card", std::string(1000, 'x')) == ErrorCode::kOk);
  const auto file = open_file(folder / "card");
  REQUIRE(file);
  fs::resize_file(folder / "card", 10);
  std::vector<std::byte> out(500);
  const Status status = (*file)->read_at(0, out);
  REQUIRE_FALSE(status);
  CHECK(status.error().code == ErrorCode::kTruncated);
}

TEST_CASE("descriptors carry bytes in order through a pipe", "[unit]") {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  const std::string text(300000, 'p');
  std::thread writer([&] {
    FdSink sink(ends[1]);
    const bool ok = sink.write(bytes_of(text)) && sink.commit();
    ::close(ends[1]);
    CHECK(ok);
  });
  FdStream stream(ends[0]);
  std::vector<std::byte> got;
  std::vector<std::byte> piece(70000);
  for (;;) {
    const auto size = stream.read(piece);
    REQUIRE(size);
    if (*size == 0) break;
    got.insert(got.end(), piece.begin(), piece.begin() + static_cast<std::ptrdiff_t>(*size));
  }
  writer.join();
  ::close(ends[0]);
  CHECK(got == bytes_of(text));
  FdStream closed(-1);
  CHECK(closed.read(piece).error().code == ErrorCode::kIo);
}

TEST_CASE("without threads ParallelFor runs every task once, in order", "[unit]") {
  std::vector<std::size_t> order;
  ParallelFor{}(
      4, [](void* context, std::size_t i) { static_cast<std::vector<std::size_t>*>(context)->push_back(i); },
      &order);
  CHECK(order == std::vector<std::size_t>{0, 1, 2, 3});
}
