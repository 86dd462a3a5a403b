// How much each token counts: from weights to half bits, and from a profile to weights, against plain arithmetic in f64.
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>

#include "cachecard/allocate.hpp"
#include "plan_source.hpp"
#include "planes_cases.hpp"

namespace cachecard {
namespace {

using fixtures::Random;
using tests::FormulaSource;

constexpr std::uint32_t kHeads = 2;
constexpr std::uint32_t kQueryHeads = 4;
constexpr std::uint32_t kDim = 8;
constexpr std::uint64_t kTokens = 90;

double draw(Random& random) { return static_cast<double>(random.below(1u << 20)) / (1u << 19) - 1.0; }

FormulaSource rotated_source() {
  FormulaSource source("weights", {.tokens = kTokens, .heads = kHeads, .head_dim = kDim});
  Random random("token weights");
  source.fill([&](auto, auto, auto) { return 2.0 * draw(random); });
  source.rotate(RopePairing::kHalfSplit);
  return source;
}

ModelProfile small_profile(std::uint32_t rank, std::uint32_t centroids) {
  Random random("profile");
  ModelProfile profile;
  ProfileLayer& layer = profile.layers.emplace_back();
  layer.record.kv_head_count = kHeads;
  layer.record.query_head_count = kQueryHeads;
  layer.record.key_dim = layer.record.value_dim = kDim;
  layer.record.map_rank = rank;
  layer.record.centroid_count = centroids;
  layer.record.attention_scale = 0.7f;
  layer.key_costs = {4.0f, 1.0f};
  layer.value_costs = {0.25f, 0.0f};
  layer.key_steps.assign(kHeads * kDim, 128);
  layer.key_steps[3] = 144;
  const auto fill = [&](std::vector<float>& out, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) out.push_back(static_cast<float>(draw(random)));
  };
  fill(layer.map_down, rank * layer.input_count());
  fill(layer.map_up, rank * layer.query_width());
  fill(layer.centroids, centroids * layer.query_width());
  layer.centroid_weights.assign(std::size_t{kQueryHeads} * centroids, 1.0f / static_cast<float>(std::max(1u, centroids)));
  return profile;
}

using Row = std::vector<double>;

/// Channel 2i + j of card order is i + j x dim / 2 of half-split order.
Row card_order(const FormulaSource& source, std::size_t stream, std::uint64_t token) {
  Row row;
  for (std::uint32_t h = 0; h < kHeads; ++h) {
    for (std::uint32_t c = 0; c < kDim; ++c) {
      const std::uint32_t from = stream == 1 ? c : c / 2 + c % 2 * kDim / 2;
      row.push_back(double{source.values(stream)[(token * kHeads + h) * kDim + from]});
    }
  }
  return row;
}

void turn(const FormulaSource& source, double position, double sign, Row& row) {
  const auto& frequencies = source.rope_table()->inverse_frequencies;
  for (std::size_t i = 0; i < row.size() / 2; ++i) {
    const double angle = position * frequencies[i % (kDim / 2)];
    const double c = std::cos(angle);
    const double s = sign * std::sin(angle);
    const double x = row[2 * i];
    const double y = row[2 * i + 1];
    row[2 * i] = x * c - y * s;
    row[2 * i + 1] = y * c + x * s;
  }
}

struct Query {
  Row row;  ///< all heads, embedded
  std::uint64_t visible = 0;
  double share = 1.0;
};

/// sqrt of the sums of A^2, with sinks and newest tokens settled.
std::vector<Row> expected_weights(const FormulaSource& source, const ProfileLayer& layer, const std::vector<Query>& queries,
                                  std::uint64_t newest) {
  std::vector<Row> weights(kHeads, Row(kTokens));
  for (const Query& query : queries) {
    for (std::uint32_t h = 0; h < kQueryHeads; ++h) {
      Row p(query.visible);
      double all = 0.0;
      for (std::uint64_t t = 0; t < query.visible; ++t) {
        const Row key = card_order(source, 0, t);
        double logit = 0.0;
        for (std::uint32_t c = 0; c < kDim; ++c) logit += query.row[h * kDim + c] * key[h / 2 * kDim + c];
        all += p[t] = std::exp(logit * double{layer.record.attention_scale});
      }
      for (std::uint64_t t = 0; t < query.visible; ++t) weights[h / 2][t] += query.share * (p[t] / all) * (p[t] / all);
    }
  }
  for (Row& row : weights) {
    double mean = 0.0;
    for (std::uint64_t t = 4; t < kTokens - newest; ++t) mean += row[t] / static_cast<double>(kTokens - newest - 4);
    for (std::uint64_t t = kTokens - newest; t < kTokens; ++t) row[t] = 2 * mean;
    for (std::uint64_t t = 0; t < 4; ++t) row[t] = mean;
    for (double& x : row) x = std::sqrt(x);
  }
  return weights;
}

/// Each offset is the nearest half bit, but where the weight is within 1e-3 of the border.
void check_offsets(std::span<const std::int8_t> found, const Row& weights) {
  double mean = 0.0;
  for (const double w : weights) mean += w / static_cast<double>(weights.size());
  for (std::size_t t = 0; t < weights.size(); ++t) {
    const double exact = std::clamp(1.2 * std::log2(0.95 * weights[t] / mean + 0.05), -6.0, 6.0);
    INFO("token " << t << ": " << exact);
    CHECK(std::abs(static_cast<double>(found[t]) - exact) <= 0.5 + 1e-3);
  }
}

}  // namespace

TEST_CASE("weights become half bits", "[allocate]") {
  std::vector<float> weights(100, 1.0f);
  weights[7] = 40.0f;
  weights[8] = 0.0f;
  std::vector<std::int8_t> offsets(100);
  weight_offsets(weights, offsets);
  check_offsets(offsets, Row(weights.begin(), weights.end()));
  CHECK(offsets[7] == 6);
  CHECK(offsets[8] == -5);
}

TEST_CASE("weights that say nothing keep all tokens alike", "[allocate]") {
  std::vector<std::int8_t> offsets(3, 5);
  weight_offsets(std::vector<float>{0.0f, 0.0f, 0.0f}, offsets);
  CHECK(offsets == std::vector<std::int8_t>{0, 0, 0});
  weight_offsets(std::vector<float>{1.0f, std::numeric_limits<float>::quiet_NaN(), 1.0f}, offsets);
  CHECK(offsets == std::vector<std::int8_t>{0, 0, 0});
}

TEST_CASE("the gain of offsets is that of arithmetic over geometric mean", "[allocate]") {
  CHECK(offsets_gain(std::vector<std::int8_t>(64, 3), 32) == Approx(0.0).margin(1e-12));
  const std::vector<std::int8_t> two{2, -2, 2, -2};  // 4 and 1/4: 2.125 over 1
  CHECK(offsets_gain(two, 4) == Approx(10.0 * std::log10(2.125)));
}

TEST_CASE("steps grow as costs fall, but noise counts as a thousandth", "[allocate]") {
  const auto gains = step_gains(std::vector<double>{256.0, 1.0, 0.0});
  CHECK(gains[0] == 1.0f);
  CHECK(gains[1] == 8.0f);
  CHECK(gains[2] == Approx(std::pow(1000.0, 0.375)));
  CHECK(step_gains(std::vector<double>{0.0, 0.0}) == std::vector<float>{1.0f, 1.0f});
}

TEST_CASE("weights from estimated queries are those of plain arithmetic", "[allocate]") {
  const FormulaSource source = rotated_source();
  const ModelProfile profile = small_profile(5, 0);
  const ProfileLayer& layer = profile.layers[0];
  const auto offsets = profile_offsets(source, profile, {.newest_tokens = 16, .parallel = {}});
  REQUIRE(offsets);
  std::vector<Query> queries;
  for (std::uint64_t t = kTokens - 16; t < kTokens; ++t) {
    Row input = card_order(source, 0, t);
    turn(source, static_cast<double>(t), -1.0, input);
    const Row values = card_order(source, 1, t);
    input.insert(input.end(), values.begin(), values.end());
    input.push_back(1.0);
    Query query{Row(layer.query_width()), t + 1};
    for (std::size_t c = 0; c < query.row.size(); ++c) {
      for (std::size_t r = 0; r < 5; ++r) {
        double hidden = 0.0;
        for (std::size_t i = 0; i < input.size(); ++i) hidden += double{layer.map_down[r * input.size() + i]} * input[i];
        query.row[c] += double{layer.map_up[c * 5 + r]} * hidden;
      }
    }
    turn(source, static_cast<double>(t), 1.0, query.row);
    queries.push_back(std::move(query));
  }
  const auto weights = expected_weights(source, layer, queries, 16);
  REQUIRE(offsets->size() == 2 * kHeads * kTokens);
  for (std::uint32_t h = 0; h < kHeads; ++h) {
    check_offsets(std::span(*offsets).subspan(h * kTokens, kTokens), weights[h]);
    // Values take their keys' row.
    CHECK(std::equal(offsets->begin() + h * kTokens, offsets->begin() + (h + 1) * kTokens,
                     offsets->begin() + (kHeads + h) * kTokens));
  }
}

TEST_CASE("weights from centroids are those of plain arithmetic, with threads too", "[allocate]") {
  const FormulaSource source = rotated_source();
  const ModelProfile profile = small_profile(0, 4);
  const ProfileLayer& layer = profile.layers[0];
  tests::TestThreads threads;
  const auto offsets = profile_offsets(source, profile, {.queries = QuerySource::kCentroids, .parallel = threads.parallel()});
  REQUIRE(offsets);
  std::vector<Query> queries;
  for (std::uint32_t i = 0; i < 4; ++i) {
    Query query{Row(layer.query_width()), kTokens, 0.25};
    for (std::uint32_t h = 0; h < kQueryHeads; ++h) {
      for (std::uint32_t c = 0; c < kDim; ++c) query.row[h * kDim + c] = double{layer.centroids[(h * 4 + i) * kDim + c]};
    }
    turn(source, static_cast<double>(kTokens + (2 * i + 1) * 32), 1.0, query.row);
    queries.push_back(std::move(query));
  }
  const auto weights = expected_weights(source, layer, queries, 0);
  for (std::uint32_t h = 0; h < kHeads; ++h) check_offsets(std::span(*offsets).subspan(h * kTokens, kTokens), weights[h]);
}

TEST_CASE("both looks are summed, each over its mean; what a profile lacks is left out", "[allocate]") {
  const FormulaSource source = rotated_source();
  const auto weights = [&](const ModelProfile& profile, QuerySource queries) {
    return profile_weights(source, profile, {.queries = queries, .newest_tokens = 16, .parallel = {}}).value().values;
  };
  const ModelProfile profile = small_profile(5, 4);
  const auto newest = weights(profile, QuerySource::kMap);
  const auto centroids = weights(profile, QuerySource::kCentroids);
  const auto both = weights(profile, QuerySource::kBoth);
  REQUIRE(both.size() == kHeads * kTokens);
  for (std::size_t h = 0; h < kHeads; ++h) {
    const auto mean = [&](const std::vector<float>& of) {
      double sum = 0.0;
      for (std::size_t t = 0; t < kTokens; ++t) sum += double{of[h * kTokens + t]};
      return sum / kTokens;
    };
    for (std::size_t i = h * kTokens; i < (h + 1) * kTokens; ++i) {
      CHECK(double{both[i]} == Approx(double{newest[i]} / mean(newest) + double{centroids[i]} / mean(centroids)));
    }
  }
  CHECK(weights(small_profile(5, 0), QuerySource::kBoth) == weights(small_profile(5, 0), QuerySource::kMap));
  CHECK(weights(small_profile(0, 4), QuerySource::kBoth) == weights(small_profile(0, 4), QuerySource::kCentroids));
}

TEST_CASE("a profile of other heads is refused by name", "[allocate]") {
  const FormulaSource source = rotated_source();
  ModelProfile profile = small_profile(2, 0);
  profile.layers[0].record.kv_head_count = 1;
  const auto offsets = profile_offsets(source, profile);
  REQUIRE(!offsets);
  CHECK(offsets.error().code == ErrorCode::kGeometryMismatch);
  CHECK(offsets.error().detail.find("the cache has 2 heads of 8, the profile 1 of 8") != std::string::npos);
}

TEST_CASE("costs and channel steps come in the header's order", "[allocate]") {
  const FormulaSource source = rotated_source();
  const ModelProfile profile = small_profile(0, 0);
  const auto costs = profile_costs(source.header(), profile);
  REQUIRE(costs);
  CHECK(*costs == std::vector<double>{4.0, 1.0, 0.25, 0.0});
  const auto steps = profile_channel_gains(source.header(), profile);
  REQUIRE(steps);
  REQUIRE(steps->size() == 2 * kHeads * kDim);
  CHECK((*steps)[3] == 2.0f);
  CHECK((*steps)[4] == 1.0f);
}

}  // namespace cachecard
