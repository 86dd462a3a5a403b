#include <catch2/catch.hpp>
#include <cstring>

#include "pt_builder.hpp"
#include "torch/pt_cache.hpp"

using namespace cachecard;
using namespace cachecard::pytorch;
using namespace cachecard::pytorch::testing;
using Catch::Contains;

namespace {

constexpr std::string_view kMagic{"\x80\x02\x8a\x0al\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", 15};

struct Legacy {
  std::string protocol = pickle_of("M\xe9\x03");  // 1001
  std::string system = pickle_of(dict({{"protocol_version", "M\xe9\x03"}, {"little_endian", "\x88"}}));
  std::string cache = pickle_of(
      tuple({tuple({tensor("HalfStorage", "11", {1, 2, 3, 4}), tensor("HalfStorage", "22", {1, 2, 3, 4})})}));
  std::string keys = pickle_of("](" + text("22") + text("11") + "e");  // any order
  std::vector<std::string> storages{std::string(48, 'v'), std::string(48, 'k')};
  std::vector<std::uint64_t> counts{24, 24};
  std::string rest;

  std::string bytes() const {
    std::string all = std::string(kMagic) + protocol + system + cache + keys;
    for (std::size_t i = 0; i < storages.size(); ++i) {
      all += std::string(reinterpret_cast<const char*>(&counts[i]), 8) + storages[i];
    }
    return all + rest;
  }
};

Result<PtCache> read(const std::string& bytes) {
  return read_pt_cache(MemorySource(std::as_bytes(std::span(bytes))));
}

std::string says(const Legacy& legacy) {
  auto cache = read(legacy.bytes());
  REQUIRE_FALSE(cache);
  return cache.error().message();
}

}  // namespace

TEST_CASE("the legacy container is read, storages in the order of its own list", "[converters]") {
  const std::string bytes = Legacy{}.bytes();
  auto cache = read(bytes);
  REQUIRE(cache);
  CHECK(cache->container == PtContainer::kLegacy);
  CHECK(bytes[cache->keys[0].offset] == 'k');
  CHECK(bytes[cache->values[0].offset] == 'v');
  CHECK(bytes[cache->values[0].offset - 1] == '\0');
}

TEST_CASE("a legacy file cut anywhere is an error", "[converters]") {
  const std::string bytes = Legacy{}.bytes();
  for (std::size_t size = 0; size < bytes.size(); ++size) CHECK_FALSE(read(bytes.substr(0, size)));
}

TEST_CASE("defects of the legacy container are named", "[converters]") {
  Legacy legacy;
  legacy.protocol = pickle_of("M\xea\x03");
  CHECK_THAT(says(legacy), Contains("protocol is not 1001"));
  legacy = {};
  legacy.system = pickle_of(dict({{"little_endian", "\x89"}}));
  CHECK_THAT(says(legacy), Contains("found little_endian False"));
  legacy = {};
  legacy.system = pickle_of("N");
  CHECK_THAT(says(legacy), Contains("found no dict"));
  legacy = {};
  legacy.keys = pickle_of("](" + text("11") + "e");
  CHECK_THAT(says(legacy), Contains("storage '22' is missing"));
  legacy.keys = pickle_of("](" + text("11") + text("11") + "e");
  CHECK_THAT(says(legacy), Contains("a key that no tensor has, or that was there before"));
  legacy.keys = pickle_of("](" + text("11") + text("33") + "e");
  CHECK_THAT(says(legacy), Contains("a key that no tensor has"));
  legacy.keys = pickle_of("](Ne");
  CHECK_THAT(says(legacy), Contains("a key that no tensor has"));
  legacy.keys = pickle_of("N");
  CHECK_THAT(says(legacy), Contains("found no list"));
  legacy = {};
  legacy.counts[1] = 23;
  CHECK_THAT(says(legacy), Contains("found 23 values, the pickle says 24"));
  legacy = {};
  legacy.rest = "more";
  CHECK_THAT(says(legacy), Contains("4 bytes follow the last storage"));
  legacy = {};
  legacy.cache = pickle_of(global("posix", "system"));
  CHECK_THAT(says(legacy), Contains("names posix.system"));
  legacy.cache = pickle_of("(" + text("storage") + global("torch", "HalfStorage") + text("11") + text("cpu") +
                           "K\x18" + numbers({1, 2, 3}) + "tQ");
  CHECK_THAT(says(legacy), Contains("a storage that is a view of another"));
  legacy.cache = pickle_of(tuple(
      {tuple({tensor("HalfStorage", "11", {1, 2, 3, 4}), tensor("FloatStorage", "11", {1, 2, 3, 4})})}));
  legacy.keys = pickle_of("](" + text("11") + "e");
  CHECK_THAT(says(legacy), Contains("storage '11' has two types"));
}

TEST_CASE("a huge count in a legacy file is a truncation", "[converters]") {
  Legacy legacy;
  const std::int64_t huge = std::int64_t{1} << 60;
  legacy.counts[0] = static_cast<std::uint64_t>(huge);
  View view{.key = "22", .count = huge, .offset = 0, .sizes = {1, 2, 3, 4}, .strides = {24, 12, 4, 1}};
  legacy.cache = pickle_of(tuple({tuple({tensor("HalfStorage", "11", {1, 2, 3, 4}), tensor(view)})}));
  auto cache = read(legacy.bytes());
  REQUIRE_FALSE(cache);
  CHECK(cache.error().code == ErrorCode::kTruncated);
}
