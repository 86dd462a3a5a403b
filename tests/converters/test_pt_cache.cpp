#include <catch2/catch.hpp>
#include <limits>

#include "pt_builder.hpp"
#include "torch/pt_cache.hpp"
#include "torch/pt_source.hpp"

using namespace cachecard;
using namespace cachecard::pytorch;
using namespace cachecard::pytorch::testing;

namespace {

const std::vector<std::int64_t> kSizes{1, 2, 3, 4};  // 24 values
const std::string kHalves(48, 'h');

std::string pair_of(int key, int value) {
  return tuple({tensor("HalfStorage", std::to_string(key), kSizes),
                tensor("HalfStorage", std::to_string(value), kSizes)});
}

const std::string kPairs = tuple({pair_of(0, 1), pair_of(2, 3)});
const std::vector<std::string> kStorages(4, kHalves);

Result<PtCache> read(const std::string& body, const std::vector<std::string>& storages = kStorages) {
  const auto bytes = pt_of(body, storages);
  return read_pt_cache(MemorySource(bytes));
}

std::string says(const std::string& body, const std::vector<std::string>& storages = kStorages) {
  auto cache = read(body, storages);
  REQUIRE_FALSE(cache);
  CHECK(cache.error().detail.find('\n') == std::string::npos);
  return cache.error().message();
}

std::string keys(const std::string& first, const std::string& second) {
  return std::string("](") + first + second + "e";
}

std::string lists(std::vector<std::pair<std::string, std::string>> more = {}) {
  std::vector<std::pair<std::string, std::string>> items{
      {"key_cache", keys(tensor("HalfStorage", "0", kSizes), tensor("HalfStorage", "2", kSizes))},
      {"value_cache", keys(tensor("HalfStorage", "1", kSizes), tensor("HalfStorage", "3", kSizes))}};
  items.insert(items.end(), more.begin(), more.end());
  return dict(items);
}

std::string object(const std::string& name, const std::string& state) {
  return global("transformers.cache_utils", name) + ")\x81" + state + "b";
}

using Catch::Contains;

}  // namespace

TEST_CASE("pairs, dicts and transformers' objects are all the same cache", "[converters]") {
  const std::string layer0 = dict({{"keys", tensor("HalfStorage", "0", kSizes)},
                                   {"values", tensor("HalfStorage", "1", kSizes)},
                                   {"dtype", global("torch", "float16")},
                                   {"device", global("torch", "device") + text("cpu") + "\x85R"}});
  const std::string layer1 = dict({{"keys", tensor("HalfStorage", "2", kSizes)},
                                   {"values", tensor("HalfStorage", "3", kSizes)},
                                   {"sliding_window", number(3)},
                                   {"cumulative_length", number(3)}});
  for (const std::string& body :
       {kPairs, "](" + pair_of(0, 1) + pair_of(2, 3) + "e", lists(), dict({{"past_key_values", kPairs}}),
        dict({{"past_key_values", lists()}}), dict({{"cache", kPairs}}), object("DynamicCache", lists()),
        dict({{"past_key_values", object("DynamicCache", lists({{"_seen_tokens", number(3)}}))}}),
        object("DynamicCache", dict({{"layers", "](" + object("DynamicLayer", layer0) +
                                                    object("DynamicSlidingWindowLayer", layer1) + "e"}}))}) {
    auto cache = read(body);
    REQUIRE(cache);
    REQUIRE(cache->shapes.size() == 2);
    CHECK(cache->shapes[1].kv_head_count == 2);
    CHECK(cache->shapes[1].token_count == 3);
    CHECK(cache->shapes[1].key_head_dim == 4);
    CHECK(cache->keys[1].storage == "2");
    CHECK(cache->values[0].storage == "1");
    CHECK(cache->token_ids.empty());
    CHECK_FALSE(cache->rope_state);
  }
}

TEST_CASE("a sliding layer of transformers 5 says how much it has seen", "[converters]") {
  const std::string state = dict({{"keys", tensor("HalfStorage", "0", kSizes)},
                                  {"values", tensor("HalfStorage", "1", kSizes)},
                                  {"sliding_window", number(4)},
                                  {"cumulative_length", number(90)}});
  const std::string body =
      object("DynamicCache", dict({{"layers", "](" + object("DynamicSlidingWindowLayer", state) + "e"}}));
  auto cache = read(body, {kHalves, kHalves});
  REQUIRE(cache);
  CHECK(cache->shapes[0].first_token == 87);
  CHECK(cache->shapes[0].window == 4);
  const auto bytes = pt_of(body, {kHalves, kHalves});
  const MemorySource source(bytes);
  auto cards = pt_source(source, *cache, {});
  REQUIRE(cards);
  CHECK((*cards)->header().token_count == 90);
  CHECK((*cards)->header().streams[0].first_token == 87);
  CHECK((*cards)->header().restorable == Restorable::kFromCount);
  CHECK((*cards)->header().restorable_from == 90);
}

TEST_CASE("lists beside the cache are read", "[converters]") {
  const std::string ids(3 * 8, '\0');
  auto storages = kStorages;
  storages.push_back(std::string("\x05\0\0\0\0\0\0\0\x06\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0", 24));
  auto cache = read(dict({{"past_key_values", kPairs},
                          {"input_ids", tensor("LongStorage", "4", {1, 3})},
                          {"positions", numbers({10, 11, 12})},
                          {"logits", "N"}}),
                    storages);
  REQUIRE(cache);
  CHECK(cache->token_ids == std::vector<std::int32_t>{5, 6, 7});
  CHECK(cache->positions == std::vector<std::int32_t>{10, 11, 12});
  CHECK(cache->unused == std::vector<std::string>{"logits"});
  cache = read(lists({{"rope_state", text("post_rope")}, {"rope_pairing", text("half_split")}}));
  REQUIRE(cache);
  CHECK(cache->rope_state == RopeState::kPostRope);
  CHECK(cache->rope_pairing == RopePairing::kHalfSplit);
}

TEST_CASE("what is no cache is refused: what, where, found, allowed", "[converters]") {
  const auto t = [](const std::string& type, const std::vector<std::int64_t>& sizes) {
    return tensor(type, "0", sizes);
  };
  const std::string good = tensor("HalfStorage", "1", kSizes);
  CHECK_THAT(says("N"), Contains("found a None; allowed: (key, value) pairs"));
  CHECK_THAT(says(")"), Contains("found no layer"));
  CHECK_THAT(says(tuple(std::vector<std::string>(8193, "N"))), Contains("found 8193 layers, allowed 8192"));
  CHECK_THAT(says(dict({{"x", kPairs}})), Contains("found no layers; allowed"));
  CHECK_THAT(says(tuple({"N"})), Contains("layer 0: is a None, allowed is a pair"));
  CHECK_THAT(says(tuple({tuple({good, good, good, good})})), Contains("an encoder-decoder cache"));
  CHECK_THAT(says(tuple({tuple({good, "N"})})), Contains("its value is a None"));
  CHECK_THAT(says(dict({{"key_cache", "]"}, {"value_cache", kPairs}})),
             Contains("found 2 layers, key_cache has 0"));
  CHECK_THAT(says(dict({{"past_key_values", kPairs}, {"cache", kPairs}})), Contains("found two caches"));
  CHECK_THAT(says(dict({{"layers", "](Ne"}})), Contains("found a None"));
  CHECK_THAT(says(global("transformers.cache_utils", "DynamicCache") + ")\x81"),
             Contains("has no attributes"));
  CHECK_THAT(says(tuple({tuple({t("HalfStorage", {2, 3, 4}), good})})),
             Contains("found sizes [2, 3, 4], allowed [1, heads"));
  CHECK_THAT(says(tuple({tuple({t("HalfStorage", {2, 3, 1, 4}), good})})),
             Contains("found a batch of 2, allowed 1"));
  CHECK_THAT(says(tuple({tuple({t("DoubleStorage", {1, 2, 3, 1}), good})})),
             Contains("found f64, allowed f32, f16 and bf16"));
  CHECK_THAT(says(tuple({tuple({t("HalfStorage", {1, 2, 3, 0}), good})}), {"", kHalves}),
             Contains("an empty tensor"));
  CHECK_THAT(says(tuple({tuple({t("HalfStorage", {1, 3, 2, 4}), good})})), Contains("values of 2 and 3"));
}

TEST_CASE("lists that do not fit are refused", "[converters]") {
  const auto with = [](const char* key, const std::string& value) {
    return dict({{"past_key_values", kPairs}, {key, value}});
  };
  CHECK_THAT(says(with("token_ids", tensor("HalfStorage", "0", {24}))),
             Contains("token_ids: found f16 [24], allowed i64"));
  CHECK_THAT(says(with("token_ids", numbers({1, -1, 2}))), Contains("found -1, allowed 0 to"));
  CHECK_THAT(says(with("token_ids", tuple({"N"}))), Contains("found a None in it"));
  CHECK_THAT(says(with("token_ids", text("abc"))), Contains("found a str, allowed a tensor or list"));
  CHECK_THAT(says(dict({{"past_key_values", kPairs}, {"token_ids", "]"}, {"input_ids", "]"}})),
             Contains("found both"));
  CHECK_THAT(says(with("window", numbers({1, 2, 3}))), Contains("found 3 numbers for 2 layers"));
  CHECK_THAT(says(with("rope_state", text("post_rope"))), Contains("found 'post_rope' with pairing ''"));
  CHECK_THAT(
      says(dict(
          {{"past_key_values", kPairs}, {"rope_state", text("none")}, {"rope_pairing", text("half_split")}})),
      Contains("found 'none' with pairing 'half_split'"));
}

TEST_CASE("views outside their storage are refused, whatever the numbers", "[converters]") {
  const auto with = [](View view) {
    view.count = 24;
    return tuple({tuple({tensor(view), tensor("HalfStorage", "1", kSizes)})});
  };
  const std::int64_t big = std::int64_t{1} << 62;
  const View views[] = {
      {.offset = 1, .sizes = kSizes, .strides = {24, 12, 4, 1}},
      {.offset = big, .sizes = kSizes, .strides = {24, 12, 4, 1}},
      {.offset = 0, .sizes = {1, 2, 3, 5}, .strides = {24, 12, 4, 1}},
      {.offset = 0, .sizes = kSizes, .strides = {24, 13, 4, 1}},
      {.offset = 0, .sizes = kSizes, .strides = {24, big, big, big}},
      {.offset = 0, .sizes = kSizes, .strides = {24, std::numeric_limits<std::int64_t>::max(), 4, 1}},
  };
  // Sums that come round to the storage's first values where 64 bits are not watched.
  const std::int64_t most = std::numeric_limits<std::int64_t>::max();
  CHECK_THAT(says(with({.offset = 2, .sizes = {1, 1, 3, 4}, .strides = {0, 0, most, 1}})),
             Contains("leave a storage of 24 values"));
  for (const View& view : views) CHECK_THAT(says(with(view)), Contains("leave a storage of 24 values"));
  // One value for all: a small file would stand for a card of any size.
  const View expanded[] = {
      {.offset = 0, .sizes = {1, 2, big, 4}, .strides = {0, 0, 0, 0}},
      {.offset = 0, .sizes = {1, big, big, big}, .strides = {0, 0, 0, 0}},
      {.offset = 0, .sizes = {1, 2, 1000000, 4}, .strides = {0, 0, 0, 0}},
      {.offset = 0, .sizes = {1, 2, 3, 5}, .strides = {1, 1, 1, 1}},
  };
  for (const View& view : expanded) CHECK_THAT(says(with(view)), Contains("an expanded tensor"));
  // A first size of 1 may have any stride.
  CHECK(read(with({.offset = 0, .sizes = kSizes, .strides = {big, 12, 4, 1}})));
}

TEST_CASE("storages that are not what the pickle says are refused", "[converters]") {
  CHECK_THAT(says(kPairs, {kHalves, kHalves, kHalves}),
             Contains("names storage '3', which the zip does not hold"));
  CHECK_THAT(says(kPairs, {kHalves, kHalves, kHalves, "short"}),
             Contains("has 5 bytes, the pickle says 24 values of f16"));
  // 100 layers of the same two storages stand for more than the file has.
  const std::string large(48000, 'h');
  const std::string pair =
      tuple({tensor("HalfStorage", "0", {1, 2, 3, 4000}), tensor("HalfStorage", "1", {1, 2, 3, 4000})});
  CHECK_THAT(says(tuple(std::vector<std::string>(100, pair)), {large, large}),
             Contains("tensors share their values"));
}

TEST_CASE("archives with code, two pickles or none, or of big-endian hosts are refused", "[converters]") {
  const std::string pickle = pickle_of(kPairs);
  const auto message = [](const Files& files) {
    const auto bytes = zip_of(files);
    auto file = open_pt(MemorySource(bytes));
    REQUIRE_FALSE(file);
    CHECK(file.error().code == ErrorCode::kForeignInput);
    return file.error().message();
  };
  CHECK_THAT(message({{"a/data.pkl", pickle}, {"a/code/__torch__.py", ""}}),
             Contains("a TorchScript archive"));
  CHECK_THAT(message({{"a/data.pkl", pickle}, {"a/constants.pkl", ""}}), Contains("a TorchScript archive"));
  CHECK_THAT(message({{"a/data.pkl", pickle}, {"b/data.pkl", pickle}}), Contains("two pickles"));
  CHECK_THAT(message({{"word/document.xml", ""}}), Contains("not a file of torch.save"));
  CHECK_THAT(message({{"a/data.pkl", pickle}, {"a/byteorder", "big"}}),
             Contains("found 'big', allowed 'little'"));
}
