#include <catch2/catch.hpp>

#include "torch/cache_layout.hpp"

using namespace cachecard;
using namespace cachecard::pytorch;
using Catch::Contains;

namespace {

LayerShape layer(std::uint64_t tokens, std::uint32_t window = 0) {
  LayerShape shape;
  shape.kv_head_count = 2;
  shape.key_head_dim = 8;
  shape.value_head_dim = 8;
  shape.token_count = tokens;
  shape.window = window;
  return shape;
}

std::vector<std::int32_t> count_up(std::int32_t first, std::size_t count) {
  std::vector<std::int32_t> numbers(count);
  for (std::size_t i = 0; i < count; ++i) numbers[i] = first + static_cast<std::int32_t>(i);
  return numbers;
}

std::string says(const std::vector<LayerShape>& shapes, CacheFacts facts = {}) {
  auto layout = lay_out(shapes, std::move(facts));
  REQUIRE_FALSE(layout);
  return layout.error().message();
}

}  // namespace

TEST_CASE("layers of different widths become streams with their own shape", "[converters]") {
  std::vector<LayerShape> shapes{layer(10), layer(10)};
  shapes[1].key_head_dim = 12;
  shapes[1].value_head_dim = 4;
  shapes[1].kv_head_count = 1;
  shapes[1].value_dtype = DType::kBf16;
  CacheFacts facts;
  facts.rope_state = RopeState::kPostRope;
  facts.rope_pairing = RopePairing::kHalfSplit;
  facts.layer_has_rope = {1, 0};
  auto layout = lay_out(shapes, facts);
  REQUIRE(layout);
  const CardHeader& header = layout->header;
  REQUIRE(header.streams.size() == 4);
  CHECK(header.streams[2].head_dim == 12);
  CHECK(header.streams[3].head_dim == 4);
  CHECK(header.streams[3].dtype == static_cast<std::uint8_t>(DType::kBf16));
  CHECK(header.streams[0].rope_state == static_cast<std::uint8_t>(RopeState::kPostRope));
  CHECK(header.streams[1].rope_state == 0);
  CHECK(header.streams[2].rope_pairing == 0);
  CHECK(header.flags == kHeaderTokensUnknown);
  CHECK(header.next_position == 10);
  CHECK(encode_header(header));
}

TEST_CASE("a window layer holds the newest tokens, with or without the window's first", "[converters]") {
  for (const std::uint64_t held : {3u, 4u, 6u}) {
    auto layout = lay_out(std::vector<LayerShape>{layer(10), layer(held, 4)}, {});
    REQUIRE(layout);
    CHECK(layout->header.streams[2].first_token == 10 - held);
    CHECK(layout->header.restorable == Restorable::kFromCount);
    CHECK(layout->header.restorable_from == std::min<std::uint64_t>(10, 10 - held + 3));
  }
  CHECK_THAT(says({layer(10), layer(2, 4)}),
             Contains("layer 1: holds 2 tokens, the cache has 10, and its window is 4"));
}

TEST_CASE("a cache whose beginning is not known is refused", "[converters]") {
  CHECK_THAT(says({layer(3, 4), layer(3, 4)}), Contains("every layer has a full window"));
  CHECK(lay_out(std::vector<LayerShape>{layer(2, 4), layer(2, 4)}, {}));
  CacheFacts facts;
  facts.positions = count_up(100, 3);
  auto layout = lay_out(std::vector<LayerShape>{layer(3, 4), layer(3, 4)}, facts);
  REQUIRE(layout);
  CHECK((layout->header.flags & kHeaderNotAPrefix) != 0);
  CHECK(layout->header.next_position == 103);
  auto explicit_layer = layer(3, 4);
  explicit_layer.first_token = 7;
  layout = lay_out(std::vector<LayerShape>{explicit_layer}, {});
  REQUIRE(layout);
  CHECK(layout->header.token_count == 10);
}

TEST_CASE("lengths that do not agree are refused, pruned caches by name", "[converters]") {
  CHECK_THAT(says({layer(10), layer(6)}),
             Contains("layer 1: holds 6 tokens, the cache has 10: a pruned cache"));
  CacheFacts facts;
  facts.token_ids = count_up(0, 11);
  CHECK_THAT(says({layer(10)}, facts), Contains("token_ids: found 11 for a cache of 10 tokens"));
  facts.token_ids = count_up(0, 10);
  facts.positions = count_up(0, 9);
  CHECK_THAT(says({layer(10)}, facts), Contains("positions: found 9 positions for 10 token ids"));
  facts.positions = {0, 1, 2, 3, 4, 5, 6, 8, 7, 9};
  CHECK_THAT(says({layer(10)}, facts), Contains("found 7 at token 8, allowed 8 and above"));
  auto shape = layer(10);
  shape.first_token = 5;
  CHECK_THAT(says({layer(10), shape}), Contains("layer 0: holds 10 tokens, the cache has 15"));
  CHECK_THAT(says({}), Contains("found 0 layers"));
  shape = layer(std::uint64_t{1} << 40);
  CHECK_THAT(says({shape}), Contains("limit_exceeded"));
  shape = layer(3);
  shape.first_token = ~std::uint64_t{0} - 1;
  CHECK_THAT(says({shape}), Contains("limit_exceeded"));
}
