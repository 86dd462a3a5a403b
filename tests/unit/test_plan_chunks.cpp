#include <catch2/catch.hpp>

#include "cachecard/writer.hpp"
#include "fixture_values.hpp"

using namespace cachecard;

namespace {

std::vector<std::uint64_t> counts(std::uint64_t tokens, std::uint64_t row, std::uint64_t chunk) {
  std::vector<std::uint64_t> out;
  for (const TokenSpan& span : plan_chunks(0, tokens, row, chunk)) out.push_back(span.token_count);
  return out;
}

using Counts = std::vector<std::uint64_t>;

}  // namespace

TEST_CASE("chunks are of the size asked for; a remainder under half joins its neighbour", "[unit]") {
  CHECK(counts(0, 128, 2048).empty());
  CHECK(counts(1, 128, 2048) == Counts{1});
  CHECK(counts(2048, 128, 2048) == Counts{2048});
  CHECK(counts(2049, 128, 2048) == Counts{2049});
  CHECK(counts(3071, 128, 2048) == Counts{3071});
  CHECK(counts(3072, 128, 2048) == Counts{2048, 1024});
  CHECK(counts(5000, 128, 2048) == Counts{2048, 2952});
  CHECK(counts(100, 128, 10) == Counts(10, 10));
}

TEST_CASE("wide rows make shorter chunks, one token at least", "[unit]") {
  CHECK(counts(3, 16u << 20, 2048) == Counts{1, 1, 1});
  CHECK(counts(2, 8u << 20, 2048) == Counts{1, 1});
  for (std::uint64_t count : counts(4096, 16384, 2048)) CHECK(count * 16384 <= (16u << 20));
}

TEST_CASE("any plan tiles its tokens in order and keeps within the limit", "[unit]") {
  fixtures::Random random("plan_chunks");
  for (int round = 0; round < 3000; ++round) {
    const std::uint64_t first = random.below(100000);
    const std::uint64_t tokens = random.below(30000);
    const std::uint64_t row = 1 + random.below(1u << (1 + random.below(24)));
    const std::uint64_t chunk = random.below(5000);
    const auto spans = plan_chunks(first, tokens, row, chunk);
    std::uint64_t next = first;
    for (const TokenSpan& span : spans) {
      REQUIRE(span.first_token == next);
      REQUIRE(span.token_count > 0);
      REQUIRE((span.token_count == 1 || span.token_count * row <= (16u << 20)));
      next += span.token_count;
    }
    REQUIRE(next == first + tokens);
  }
}
