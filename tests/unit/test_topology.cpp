// Which link carries how much, whose look counts there, and what is refused.
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>

#include "cachecard/allocate.hpp"
#include "cachecard/topology.hpp"

namespace cachecard {
namespace {

constexpr CacheSize kCache{1'000'000, 2'000'000};

Topology with_agents(std::initializer_list<const char*> names) {
  Topology topology;
  for (const char* name : names) topology.agents.push_back({name, 1.0});
  return topology;
}

/// Bytes that may pass in the one second that links have by default.
void add(Topology& topology, std::size_t from, std::size_t to, double bandwidth) {
  topology.links.push_back({from, to, bandwidth, 1.0, 0});
}

std::vector<LinkPlan> planned(const Topology& topology) {
  auto plans = plan_links(topology, kCache);
  REQUIRE(plans);
  return *plans;
}

using Readers = std::vector<std::size_t>;

TEST_CASE("a chain: each link counts all who are behind it", "[topology]") {
  Topology topology = with_agents({"a", "b", "c", "d"});
  add(topology, 0, 1, 400'000);
  add(topology, 1, 2, 300'000);
  add(topology, 2, 3, 200'000);
  const auto plans = planned(topology);
  CHECK(plans[0].readers == Readers{1, 2, 3});
  CHECK(plans[1].readers == Readers{2, 3});
  CHECK(plans[2].readers == Readers{3});
  CHECK(plans[0].bytes == 400'000);
  CHECK(plans[0].bits_per_value == Approx(3.2));
  CHECK(plans[2].bytes == 200'000);
  for (const LinkPlan& plan : plans) {
    CHECK_FALSE(plan.capped_by);
    CHECK_FALSE(plan.whole);
    CHECK(plan.seconds == Approx(1.0));
  }
}

TEST_CASE("no link carries more than its sender got", "[topology]") {
  Topology topology = with_agents({"a", "b", "c", "d"});
  add(topology, 2, 3, 900'000);  // the order of links in the file does not matter
  add(topology, 1, 2, 100'000);
  add(topology, 0, 1, 400'000);
  const auto plans = planned(topology);
  CHECK(plans[0].budget == 900'000);
  CHECK(plans[0].bytes == 100'000);
  CHECK(plans[0].capped_by == std::size_t{1});
  CHECK(plans[0].seconds == Approx(1.0 / 9.0));
  CHECK_FALSE(plans[1].capped_by);
  CHECK_FALSE(plans[2].capped_by);
}

TEST_CASE("a fan-out: links of their own budgets and readers", "[topology]") {
  Topology topology = with_agents({"reader", "planner", "coder", "reviewer"});
  add(topology, 0, 1, 100'000);
  add(topology, 0, 2, 500'000);
  add(topology, 2, 3, 500'000);
  const auto plans = planned(topology);
  CHECK(plans[0].readers == Readers{1});
  CHECK(plans[1].readers == Readers{2, 3});
  CHECK(plans[2].bytes == 500'000);
  CHECK_FALSE(plans[2].capped_by);
}

TEST_CASE("a diamond: the best card that an agent gets is what it hands on", "[topology]") {
  Topology topology = with_agents({"a", "b", "c", "d", "e"});
  add(topology, 0, 1, 300'000);
  add(topology, 0, 2, 600'000);
  add(topology, 1, 3, 800'000);
  add(topology, 2, 3, 500'000);
  add(topology, 3, 4, 700'000);
  const auto plans = planned(topology);
  CHECK(plans[0].readers == Readers{1, 3, 4});
  CHECK(plans[2].bytes == 300'000);
  CHECK(plans[2].capped_by == std::size_t{0});
  CHECK(plans[4].bytes == 500'000);
  CHECK(plans[4].capped_by == std::size_t{3});
}

TEST_CASE("limits in bytes, time, and the whole cache", "[topology]") {
  Topology topology = with_agents({"a", "b", "c"});
  topology.links.push_back({0, 1, 100'000.0, 2.5, 0});
  topology.links.push_back({0, 2, 0.0, 1.0, 50'000});
  auto plans = planned(topology);
  CHECK(plans[0].bytes == 250'000);
  CHECK(plans[0].seconds == Approx(2.5));
  CHECK(plans[1].bytes == 50'000);
  CHECK(plans[1].seconds == 0.0);
  topology.links[0].most_bytes = 40'000;
  topology.links[1] = {0, 2, 1e300, 1e300, 0};
  plans = planned(topology);
  CHECK(plans[0].bytes == 40'000);
  CHECK(plans[0].seconds == Approx(0.4));
  CHECK(plans[1].whole);
  CHECK(plans[1].bytes == kCache.whole_bytes);
}

TEST_CASE("faults are found at their link or agent", "[topology]") {
  const auto fault_of = [](const Topology& topology) {
    const auto fault = find_fault(topology);
    REQUIRE(fault);
    const auto plans = plan_links(topology, kCache);
    REQUIRE_FALSE(plans);
    CHECK(plans.error().code == ErrorCode::kInvalidArgument);
    CHECK(plans.error().detail == fault->detail);
    return *fault;
  };
  Topology good = with_agents({"a", "b", "c"});
  add(good, 0, 1, 1000);
  add(good, 1, 2, 1000);
  CHECK_FALSE(find_fault(good));

  SECTION("a cycle, by its names, at the link that closes it") {
    Topology topology = with_agents({"start", "a", "b", "c", "end"});
    add(topology, 0, 1, 1000);
    add(topology, 1, 2, 1000);
    add(topology, 2, 3, 1000);
    add(topology, 3, 1, 1000);
    add(topology, 3, 4, 1000);
    const auto fault = fault_of(topology);
    CHECK(fault.of_link);
    CHECK(fault.number == 3);
    CHECK(fault.detail == "a cycle: a -> b -> c -> a");
  }
  SECTION("bandwidths") {
    for (const double bandwidth : {-1.0, std::nan(""), std::numeric_limits<double>::infinity(), 0.25}) {
      Topology topology = good;
      topology.links[1].bandwidth = bandwidth;
      CHECK(fault_of(topology).number == 1);
    }
    Topology topology = good;
    topology.links[0].bandwidth = 0.0;
    CHECK(fault_of(topology).detail == "link a -> b: it has neither a bandwidth nor a limit in bytes");
  }
  SECTION("times") {
    good.links[1].seconds = 0.0;
    CHECK(fault_of(good).detail == "link b -> c: found 0 seconds, allowed are numbers above 0");
  }
  SECTION("links") {
    Topology topology = good;
    topology.links.push_back({1, 7, 1000.0, 1.0, 0});
    CHECK(fault_of(topology).number == 2);
    topology.links.back() = {0, 1, 1000.0, 1.0, 0};
    CHECK(fault_of(topology).detail == "link a -> b is there twice");
    topology.links.back() = {1, 1, 1000.0, 1.0, 0};
    CHECK(fault_of(topology).detail == "link b -> b: it leads back to its sender");
  }
  SECTION("agents") {
    Topology topology = good;
    topology.agents[2].name = "a";
    CHECK(fault_of(topology).number == 2);
    CHECK_FALSE(fault_of(topology).of_link);
    topology.agents[2].name = "";
    CHECK(fault_of(topology).number == 2);
    topology = good;
    topology.agents[1].share = -1.0;
    CHECK(fault_of(topology).number == 1);
  }
  SECTION("a cache without values") { CHECK_FALSE(plan_links(good, {0, 0})); }
}

/// Keys and values of two layers with two heads each, the second layer's from token 2 on.
CardHeader small_header(std::uint64_t tokens) {
  CardHeader header;
  header.token_count = tokens;
  for (std::uint32_t layer = 0; layer < 2; ++layer) {
    for (const StreamKind kind : {StreamKind::kKey, StreamKind::kValue}) {
      StreamRecord stream;
      stream.layer = layer;
      stream.stream = static_cast<std::uint8_t>(kind);
      stream.kv_head_count = 2;
      stream.head_dim = 8;
      stream.first_token = layer == 0 ? 0 : 2;
      stream.token_count = tokens - stream.first_token;
      header.streams.push_back(stream);
    }
  }
  return header;
}

TEST_CASE("sums of weights go by their means and shares", "[topology]") {
  const TokenWeights even{1, 4, {8, 8, 8, 8}};
  const TokenWeights by_head{2, 4, {4, 0, 0, 0, 0, 0, 0, 0}};
  const std::vector<WeightShare> shares{{&even, 0.5}, {&by_head, 2.0}};
  const TokenWeights sum = sum_weights(shares);
  CHECK(sum.row_count == 2);
  CHECK(sum.values == std::vector<float>{8.5f, 0.5f, 0.5f, 0.5f, 2.5f, 2.5f, 2.5f, 2.5f});
}

TEST_CASE("offsets by head follow the rows of keys, over their stream's tokens", "[topology]") {
  const CardHeader header = small_header(6);
  CHECK(weight_rows(header) == 4);
  CHECK(weight_row_of_use(header) == std::vector<std::uint64_t>{0, 1, 0, 1, 2, 3, 2, 3});
  TokenWeights weights{4, 6, std::vector<float>(24, 1.0f)};
  weights.values[1 * 6 + 3] = 100.0f;  // head 1 of layer 0
  weights.values[2 * 6 + 0] = 100.0f;  // a token that layer 1 does not hold
  const auto offsets = head_offsets(header, weights);
  const auto row = [&](std::size_t use) {
    return std::vector<int>(offsets.begin() + static_cast<std::ptrdiff_t>(use * 6),
                            offsets.begin() + static_cast<std::ptrdiff_t>(use * 6 + 6));
  };
  CHECK(row(0) == std::vector<int>(6, 0));
  CHECK(row(1) == row(3));
  CHECK(row(1)[3] == 3);
  CHECK(row(1)[0] < 0);
  CHECK(row(4) == std::vector<int>(6, 0));
}

TEST_CASE("the gain of a map is judged by weights that may be another's", "[topology]") {
  CardHeader header = small_header(64);
  for (StreamRecord& stream : header.streams) {
    stream.first_token = 0;
    stream.token_count = 64;
  }
  TokenWeights mine{1, 64, std::vector<float>(64, 1.0f)};
  TokenWeights yours = mine;
  for (std::size_t t = 0; t < 8; ++t) {
    mine.values[t] = 16.0f;
    yours.values[63 - t] = 16.0f;
  }
  const auto offsets = head_offsets(header, mine);
  CHECK(weighted_gain(header, mine, std::vector<std::int8_t>(offsets.size(), 0)) == Approx(0.0));
  CHECK(weighted_gain(header, mine, offsets) > 2.0);
  CHECK(weighted_gain(header, yours, offsets) < 0.0);
  // Arithmetic over geometric mean, where every offset is the logarithm of its weight.
  TokenWeights exact{1, 64, std::vector<float>(64)};
  std::vector<std::int8_t> logs(offsets.size());
  for (std::size_t i = 0; i < logs.size(); ++i) logs[i] = static_cast<std::int8_t>(i % 64 < 32 ? 2 : 0);
  for (std::size_t t = 0; t < 64; ++t) exact.values[t] = t < 32 ? 4.0f : 1.0f;
  CHECK(weighted_gain(header, exact, logs) == Approx(10.0 * std::log10(2.5 / 2.0)));
}

}  // namespace
}  // namespace cachecard
