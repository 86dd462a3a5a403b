#include <catch2/catch.hpp>

#include "card_plan.hpp"

using namespace cachecard;

namespace {

CardHeader sample_header(std::uint64_t tokens) {
  fixtures::CardPlan plan = fixtures::make_plan("map", "", tokens, "", "");
  fixtures::add_opaque(plan, 0, 8);
  fixtures::add_layer(plan, 1, DType::kF16, {.kv_head_count = 3, .head_dim = 4});
  fixtures::add_stream(plan, 2, StreamKind::kKey, DType::kQ8_0);
  return plan.header;
}

std::uint8_t encoding_of(std::span<const std::byte> payload) { return load<MapHeader>(payload).encoding; }

}  // namespace

TEST_CASE("a uniform map has the widths of the streams' types", "[unit]") {
  const CardHeader header = sample_header(10);
  const BitWidthMap map = uniform_map(header, 10);
  CHECK(map.base == std::vector<std::uint8_t>{0, 32, 32, 17});
  CHECK(map.row_of.size() == 7);
  CHECK(map.row_count() == 1);
  CHECK(map.row(0).size() == 10);
}

TEST_CASE("first_use counts KV heads of the streams before; opaque ones have none", "[unit]") {
  const CardHeader header = sample_header(1);
  CHECK(BitWidthMap::first_use(header, 0) == 0);
  CHECK(BitWidthMap::first_use(header, 1) == 0);
  CHECK(BitWidthMap::first_use(header, 2) == 3);
  CHECK(BitWidthMap::first_use(header, 3) == 6);
  CHECK(BitWidthMap::first_use(header, 4) == 7);
}

TEST_CASE("maps come back as they were, in the shorter of the two encodings", "[unit]") {
  for (std::uint64_t tokens : {0u, 1u, 2u, 254u, 255u, 256u, 1000u}) {
    const CardHeader header = sample_header(tokens);
    BitWidthMap map = uniform_map(header, tokens);
    fixtures::Random random("map");
    for (bool noisy : {false, true}) {
      INFO(tokens << " tokens, noisy " << noisy);
      for (auto& offset : map.rows) offset = noisy ? static_cast<std::int8_t>(random.next()) : std::int8_t{0};
      const auto payload = encode_map(map);
      const auto back = parse_map(payload, header, tokens);
      REQUIRE(back);
      CHECK(back->base == map.base);
      CHECK(back->cap == map.cap);
      CHECK(back->row_of == map.row_of);
      CHECK(back->rows == map.rows);
      const std::size_t plain =
          encoded_size<MapHeader>() + 2 * map.base.size() + 2 * map.row_of.size() + map.rows.size();
      CHECK(payload.size() <= plain);
      if (tokens > 100) CHECK(encoding_of(payload) == (noisy ? 0 : 1));
    }
  }
}

TEST_CASE("several rows keep their order and their uses", "[unit]") {
  const CardHeader header = sample_header(3);
  BitWidthMap map = uniform_map(header, 3);
  map.rows = {1, 2, 3, -4, -5, -6};
  map.row_of = {0, 1, 0, 1, 1, 0, 1};
  const auto back = parse_map(encode_map(map), header, 3);
  REQUIRE(back);
  CHECK(back->row_count() == 2);
  CHECK(back->row(1)[2] == -6);
  CHECK(back->row_of == map.row_of);
}
