#include <catch2/catch.hpp>
#include <cmath>
#include <random>

#include "llama_calibrate/disturbance.hpp"
#include "llama_calibrate/divergence.hpp"
#include "llama_calibrate/head_order.hpp"
#include "llama_calibrate/linear_map.hpp"
#include "llama_calibrate/query_centroids.hpp"
#include "llama_calibrate/step_codes.hpp"

using namespace cachecard;
using namespace cachecard::llama_calibrate;

namespace {

Rows random_rows(Eigen::Index count, Eigen::Index width, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Rows rows(count, width);
  for (Eigen::Index i = 0; i < rows.size(); ++i) rows.data()[i] = normal(random);
  return rows;
}

RopeTable rope(RopePairing pairing, std::uint32_t offset, std::uint32_t width) {
  RopeTable table;
  table.record.pairing = static_cast<std::uint8_t>(pairing);
  table.record.rotated_offset = offset;
  table.record.rotated_width = width;
  table.record.pair_count = width / 2;
  table.record.magnitude = 1.25;
  for (std::uint32_t i = 0; i < width / 2; ++i) table.inverse_frequencies.push_back(std::pow(100.0, -double(i) / width));
  return table;
}

/// sums of queries = inputs x truth + noise, and a constant of 100.
MapSums known_sums(const Rows& truth, float noise) {
  Rows inputs = random_rows(600, truth.rows(), 1);
  inputs.col(inputs.cols() - 1).setOnes();
  const Rows queries = inputs * truth + noise * random_rows(600, truth.cols(), 2);
  MapSums sums(truth.rows(), truth.cols());
  sums.add(inputs.topRows(250), queries.topRows(250));
  sums.add(inputs.bottomRows(350), queries.bottomRows(350));
  return sums;
}

}  // namespace

TEST_CASE("rotary embedding comes off queries and goes on again", "[converters]") {
  const auto pairing = GENERATE(RopePairing::kInterleaved, RopePairing::kHalfSplit);
  const RopeTable table = rope(pairing, 2, 6);
  const HeadOrder order = head_order(3, 10, &table);
  const std::size_t position = 700;
  const auto turns = turns_of(order, position + 1);
  const std::span<const float> turn = std::span(turns).subspan(position * 6, 6);
  const Rows row = random_rows(1, 30, 5);
  std::vector<float> card(30), back(30);
  to_card_order(order, {row.data(), 30}, turn, card);
  from_card_order(order, card, turn, back);
  for (std::size_t i = 0; i < 30; ++i) CHECK(back[i] == Approx(row.data()[i]).margin(1e-5));

  // By hand: the second pair of the second head. x' = m (x cos - y sin), y' = m (y cos + x sin)
  const std::size_t first = 10 + (pairing == RopePairing::kInterleaved ? 2 + 2 : 2 + 1);
  const std::size_t second = pairing == RopePairing::kInterleaved ? first + 1 : first + 3;
  const double theta = double(position) * table.inverse_frequencies[1];
  const double x = card[10 + 2], y = card[10 + 3];
  CHECK(row.data()[first] == Approx(1.25 * (x * std::cos(theta) - y * std::sin(theta))).margin(1e-4));
  CHECK(row.data()[second] == Approx(1.25 * (y * std::cos(theta) + x * std::sin(theta))).margin(1e-4));
  CHECK(card[10 + 6] == row.data()[10 + 0]);  // unrotated channels stand behind
  CHECK(card[10 + 8] == row.data()[10 + 8]);
}

TEST_CASE("ridge regression finds a known map, and its leading directions", "[converters]") {
  Rows truth = random_rows(13, 4, 3) * random_rows(4, 20, 4);  // of rank 4
  truth.row(12).setConstant(100.0f);
  const MapSums sums = known_sums(truth, 0.0f);
  const LowRankMap whole = fit_map(sums, 64);
  CHECK(whole.up.cols() == 13);
  CHECK(explained(sums, whole) > 0.9999);
  const LowRankMap five = fit_map(sums, 5);  // four, and the constant
  CHECK((five.up * five.down - truth.transpose()).norm() < 0.02f * truth.norm());
  CHECK(explained(sums, five) > 0.999);
  CHECK(explained(sums, fit_map(sums, 3)) < 0.99);
  const MapSums noisy = known_sums(truth, 4.0f);
  const double signal = truth.topRows(12).cast<double>().squaredNorm();
  CHECK(explained(noisy, fit_map(noisy, 5)) == Approx(signal / (signal + 16.0 * 20)).margin(0.05));
}

TEST_CASE("k-means finds clusters and their shares, the same each time", "[converters]") {
  Rows points = 0.1f * random_rows(400, 3, 7);
  for (Eigen::Index i = 0; i < 400; ++i) points(i, i % 4 == 0 ? 0 : 1) += 10.0f;
  const Centroids found = k_means(points, 2, 12, 3);
  const Eigen::Index rare = found.points(0, 0) > 5.0f ? 0 : 1;
  CHECK(found.points(rare, 0) == Approx(10.0f).margin(0.1));
  CHECK(found.points(1 - rare, 1) == Approx(10.0f).margin(0.1));
  CHECK(found.shares[static_cast<std::size_t>(rare)] == Approx(0.25f));
  CHECK(found.shares[0] + found.shares[1] == Approx(1.0f));
  CHECK(k_means(points, 2, 12, 3).points == found.points);
  const Centroids more = k_means(points.topRows(3), 5, 12, 3);  // fewer points than centroids
  CHECK(more.points.allFinite());
}

TEST_CASE("steps of keys go with the inverse square root of query energy, by pair", "[converters]") {
  // One KV head, two query heads of four channels; pair 0 has 16 times the energy of pair 1.
  const std::vector<double> energy = {0.0, 16.0, 1.0, 0.0, 16.0, 0.0, 0.5, 0.5};
  const auto codes = key_step_codes(energy, 1, 4, 2);
  CHECK(codes == std::vector<std::uint8_t>{112, 112, 144, 144});
  CHECK(step_factor(112) == 0.5f);
  CHECK(step_factor(144) == 2.0f);
  const std::vector<double> far = {1e12, 1e12, 1e-12, 1e-12};
  CHECK(key_step_codes(far, 1, 4, 2) == std::vector<std::uint8_t>{96, 96, 160, 160});
  const std::vector<double> none(4, 0.0);
  CHECK(key_step_codes(none, 1, 4, 0) == std::vector<std::uint8_t>(4, 128));
}

TEST_CASE("disturbed heads keep their first tokens and lie on their steps", "[converters]") {
  Rows stream = random_rows(50, 8, 9);
  stream.col(5).array() += 20.0f;  // a mean of keys
  const Rows keys = rounded_keys(stream, 1, std::vector<std::uint8_t>{128, 144, 112, 128}, 0.5);
  CHECK(keys.topRows(4) == stream.middleCols(4, 4).topRows(4));
  const Rows error = (keys - stream.middleCols(4, 4)).bottomRows(46);
  CHECK(error.col(1).cwiseAbs().maxCoeff() <= 0.52f);  // half of 0.5 x 2 x the root mean square, about 1
  CHECK(error.col(2).cwiseAbs().maxCoeff() <= 0.14f);
  CHECK(error.col(1).norm() > 2.0f * error.col(2).norm());
  Rows loud = random_rows(50, 8, 10);
  loud.row(20) *= 4.0f;
  const Rows values = rounded_values(loud, 0, 4, 0.5);
  CHECK(values.topRows(4) == loud.leftCols(4).topRows(4));
  CHECK(values != loud.leftCols(4));
  const Rows zero = Rows::Zero(50, 8);
  CHECK(rounded_values(zero, 0, 4, 0.5) == zero.leftCols(4));
  CHECK(rounded_keys(zero, 0, std::vector<std::uint8_t>(4, 128), 0.5) == zero.leftCols(4));
}

TEST_CASE("divergence of next-token distributions", "[converters]") {
  Distributions exact(3);
  exact.add(std::vector<float>{1.0f, 2.0f, 3.0f});
  exact.add(std::vector<float>{200.0f, 0.0f, -200.0f});
  CHECK(exact.count() == 2);
  CHECK(exact.divergence(0, std::vector<float>{1.0f, 2.0f, 3.0f}) == Approx(0.0).margin(1e-12));
  CHECK(exact.divergence(0, std::vector<float>{101.0f, 102.0f, 103.0f}) == Approx(0.0).margin(1e-12));
  const double p[] = {0.09003057, 0.24472847, 0.66524096};  // softmax of 1, 2, 3
  const double uniform = p[0] * std::log(3 * p[0]) + p[1] * std::log(3 * p[1]) + p[2] * std::log(3 * p[2]);
  CHECK(exact.divergence(0, std::vector<float>{0.0f, 0.0f, 0.0f}) == Approx(uniform).epsilon(1e-6));
  CHECK(exact.divergence(1, std::vector<float>{0.0f, 0.0f, 0.0f}) == Approx(std::log(3.0)));
}
