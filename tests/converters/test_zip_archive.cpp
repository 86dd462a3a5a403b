#include <algorithm>
#include <catch2/catch.hpp>
#include <cstring>

#include "pt_builder.hpp"
#include "torch/crc32.hpp"
#include "torch/zip_archive.hpp"
#include "torch/zip_writer.hpp"

using namespace cachecard;
using namespace cachecard::pytorch;
using namespace cachecard::pytorch::testing;

namespace {

using Bytes = std::vector<std::byte>;

const Files kFiles{{"a/data.pkl", "first"}, {"a/data/0", std::string(100, 'x')}, {"a/version", "3\n"}};

std::size_t find(const Bytes& bytes, std::string_view what, std::size_t from = 0) {
  const auto* begin = reinterpret_cast<const char*>(bytes.data());
  return std::string_view(begin, bytes.size()).find(what, from);
}

template <class T>
void put(Bytes& bytes, std::size_t at, T value) {
  std::memcpy(bytes.data() + at, &value, sizeof(value));
}

Result<ZipArchive> open(const Bytes& bytes) { return ZipArchive::open(MemorySource(bytes)); }

constexpr std::string_view kCentral{"PK\1\2", 4};
constexpr std::string_view kEnd{"PK\5\6", 4};

}  // namespace

TEST_CASE("crc32 is zip's", "[converters]") {
  const std::string_view text = "123456789";
  CHECK(crc32(0, std::as_bytes(std::span(text))) == 0xCBF43926u);
  const std::string long_text(1000, 'q');
  const auto bytes = std::as_bytes(std::span(long_text));
  CHECK(crc32(crc32(0, bytes.first(3)), bytes.subspan(3)) == crc32(0, bytes));
}

TEST_CASE("what ZipWriter writes, ZipArchive reads; in the zip64 form too", "[converters]") {
  for (const std::uint64_t from : {std::uint64_t{0xFFFFFFFF}, std::uint64_t{50}, std::uint64_t{0}}) {
    MemorySink sink;
    ZipWriter zip(sink, from);
    for (const auto& [name, text] : kFiles) REQUIRE(zip.add(name, std::as_bytes(std::span(text))));
    REQUIRE(zip.finish());
    CHECK(zip.size() == sink.bytes().size());
    const MemorySource source(sink.bytes());
    auto archive = ZipArchive::open(source);
    REQUIRE(archive);
    REQUIRE(archive->entries().size() == 3);
    for (const auto& [name, text] : kFiles) {
      const ZipEntry* entry = archive->find(name);
      REQUIRE(entry != nullptr);
      CHECK(entry->size == text.size());
      CHECK(entry->offset % 64 == 0);
      CHECK(check_crc(source, *entry));
    }
    CHECK(archive->find("a/none") == nullptr);
  }
}

TEST_CASE("a zip cut anywhere is an error", "[converters]") {
  const Bytes whole = zip_of(kFiles);
  for (std::size_t size = 0; size < whole.size(); ++size) {
    const Bytes cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
    CHECK_FALSE(open(cut));
  }
}

TEST_CASE("entries that are not stored as they are, are refused", "[converters]") {
  const Bytes whole = zip_of(kFiles);
  const std::size_t row = find(whole, kCentral);
  Bytes bytes = whole;
  put(bytes, row + 10, std::uint16_t{8});  // deflate: the way of zip bombs
  auto compressed = open(bytes);
  REQUIRE(compressed);
  CHECK_THAT(compressed->check_stored().error().detail, Catch::Contains("is compressed (method 8)"));
  CHECK(open(whole)->check_stored());
  bytes = whole;
  put(bytes, row + 8, std::uint16_t{1});
  CHECK_THAT(open(bytes).error().detail, Catch::Contains("is encrypted"));
  bytes = whole;
  put(bytes, row + 20, std::uint32_t{4});
  CHECK_THAT(open(bytes).error().detail, Catch::Contains("stored in 4 bytes, but has 5"));
  bytes = whole;
  put(bytes, find(whole, kEnd) + 4, std::uint16_t{1});
  CHECK_THAT(open(bytes).error().detail, Catch::Contains("several disks"));
}

TEST_CASE("entries outside the file, on each other, or of one name are refused", "[converters]") {
  const Bytes whole = zip_of(kFiles);
  const std::size_t row = find(whole, kCentral);
  const std::size_t second = find(whole, kCentral, row + 1);
  Bytes bytes = whole;
  put(bytes, second + 20, std::uint32_t{0x7FFFFFFF});
  put(bytes, second + 24, std::uint32_t{0x7FFFFFFF});
  CHECK(open(bytes).error().code == ErrorCode::kTruncated);
  bytes = whole;
  put(bytes, second + 42, std::uint32_t{0x7FFFFFFF});
  CHECK(open(bytes).error().code == ErrorCode::kTruncated);
  bytes = whole;
  put(bytes, row + 20, std::uint32_t{90});
  put(bytes, row + 24, std::uint32_t{90});
  CHECK_THAT(open(bytes).error().detail, Catch::Contains("overlaps 'a/data.pkl'"));
  CHECK_THAT(open(zip_of({{"a", "1"}, {"a", "2"}})).error().detail, Catch::Contains("'a' is there twice"));
  bytes = whole;
  bytes[find(whole, "a/data.pkl")] = std::byte{'b'};  // the local header's name
  CHECK_THAT(open(bytes).error().detail, Catch::Contains("its header 'b/data.pkl'"));
  bytes = whole;
  put(bytes, row + 42, std::uint32_t{1});
  CHECK(open(bytes).error().code == ErrorCode::kCorrupt);
}

TEST_CASE("a directory that claims too much is refused", "[converters]") {
  const Bytes whole = zip_of(kFiles);
  const std::size_t end = find(whole, kEnd);
  Bytes bytes = whole;
  put(bytes, end + 10, std::uint16_t{0xFFFE});
  CHECK(open(bytes).error().code == ErrorCode::kTruncated);
  bytes = whole;
  put(bytes, end + 16, std::uint32_t{0xFFFFFFF0});
  CHECK(open(bytes).error().code == ErrorCode::kTruncated);
  MemorySink sink;
  ZipWriter zip(sink, 0);
  REQUIRE(zip.finish());
  bytes = sink.bytes();
  put(bytes, 32, std::uint64_t{1} << 40);  // entries in the zip64 record
  CHECK(open(bytes).error().code == ErrorCode::kLimitExceeded);
}

TEST_CASE("a changed byte of an entry is found", "[converters]") {
  Bytes bytes = zip_of(kFiles);
  bytes[find(bytes, "first")] = std::byte{'F'};
  const MemorySource source(bytes);
  auto archive = ZipArchive::open(source);
  REQUIRE(archive);
  CHECK(check_crc(source, *archive->find("a/data.pkl")).error().code == ErrorCode::kChecksumMismatch);
}
