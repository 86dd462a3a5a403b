#include <catch2/catch.hpp>
#include <cstring>
#include <set>

#include "cachecard/records.hpp"
#include "format/record_check.hpp"

using namespace cachecard;

TEST_CASE("store and load are inverses for every record", "[unit]") {
  for_each_record([]<class Record>() {
    std::vector<std::byte> bytes(encoded_size<Record>());
    for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 37 + 11);
    std::vector<std::byte> again(bytes.size());
    store(load<Record>(bytes), again);
    INFO(Layout<Record>::name);
    CHECK(again == bytes);
  });
}

TEST_CASE("fields stand at the sums of the sizes before them, and have names of their own", "[unit]") {
  for_each_record([]<class Record>() {
    std::size_t expected = 0;
    std::set<std::string_view> names;
    for_each_field<Record>([&](const auto& f, std::size_t offset) {
      INFO(Layout<Record>::name << "." << f.name);
      CHECK(offset == expected);
      CHECK(names.insert(f.name).second);
      expected += sizeof(Record{}.*(f.member));
    });
    CHECK(expected == encoded_size<Record>());
  });
}

TEST_CASE("a field's bytes are little-endian and at its offset", "[unit]") {
  FrameHeader frame;
  frame.stored_size = 0x0102030405060708;
  std::vector<std::byte> bytes(encoded_size<FrameHeader>());
  store(frame, bytes);
  for_each_field<FrameHeader>([&](const auto& f, std::size_t offset) {
    if (f.name != "stored_size") return;
    CHECK(bytes[offset] == std::byte{8});
    CHECK(bytes[offset + 7] == std::byte{1});
  });
}

TEST_CASE("field_error names the field and its place for every field of every record", "[unit]") {
  for_each_record([]<class Record>() {
    for_each_field<Record>([&](const auto& f, std::size_t offset) {
      const Error error = field_error(ErrorCode::kCorrupt, 1000, f.member, "why");
      CHECK(error.offset == 1000 + offset);
      CHECK(error.field == std::string(Layout<Record>::name) + "." + std::string(f.name));
      CHECK(field_error(ErrorCode::kCorrupt, kNoOffset, f.member, "").offset == kNoOffset);
    });
  });
}

TEST_CASE("check_reserved passes records as they are made, and stops every reserved byte", "[unit]") {
  for_each_record([]<class Record>() {
    CHECK(check_reserved(Record{}, 0));
    for_each_field<Record>([&](const auto& f, std::size_t offset) {
      using Member = std::remove_cvref_t<decltype(std::declval<Record&>().*(f.member))>;
      if (f.rule != Rule::kReservedZero) return;
      for (std::size_t i = 0; i < sizeof(Member); ++i) {
        std::vector<std::byte> bytes(encoded_size<Record>());
        store(Record{}, bytes);
        bytes[offset + i] = std::byte{0x80};
        const Status status = check_reserved(load<Record>(bytes), 0);
        REQUIRE_FALSE(status);
        CHECK(status.error().code == ErrorCode::kReservedNotZero);
        CHECK(status.error().offset == offset);
      }
    });
  });
}
