#include "query_centroids.hpp"

#include <numeric>

namespace cachecard::llama_calibrate {
namespace {

/// source: SplitMix64 (Steele, Lea, Flood 2014); std's distributions differ between libraries.
std::uint64_t next_random(std::uint64_t& state) {
  std::uint64_t z = state += 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

Rows drawn(const RowsRef& points, std::size_t count, std::uint64_t seed) {
  std::vector<Eigen::Index> order(static_cast<std::size_t>(points.rows()));
  std::iota(order.begin(), order.end(), Eigen::Index{0});
  Rows out(static_cast<Eigen::Index>(count), points.cols());
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t at = i % order.size();
    std::swap(order[at], order[at + next_random(seed) % (order.size() - at)]);
    out.row(static_cast<Eigen::Index>(i)) = points.row(order[at]);
  }
  return out;
}

/// The nearest centroid of each point.
std::vector<Eigen::Index> nearest(const RowsRef& points, const Rows& centroids) {
  const Eigen::RowVectorXf halves = 0.5f * centroids.rowwise().squaredNorm().transpose();
  const Rows closeness = (points * centroids.transpose()).rowwise() - halves;
  std::vector<Eigen::Index> out(static_cast<std::size_t>(points.rows()));
  for (Eigen::Index i = 0; i < points.rows(); ++i) closeness.row(i).maxCoeff(&out[static_cast<std::size_t>(i)]);
  return out;
}

}  // namespace

Centroids k_means(const RowsRef& points, std::size_t count, std::size_t iterations, std::uint64_t seed) {
  Centroids result{drawn(points, count, seed), std::vector<float>(count)};
  std::vector<std::size_t> members(count);
  for (std::size_t round = 0; round <= iterations; ++round) {
    const auto home = nearest(points, result.points);
    Eigen::MatrixXd sums = Eigen::MatrixXd::Zero(result.points.rows(), points.cols());
    members.assign(count, 0);
    for (std::size_t i = 0; i < home.size(); ++i) {
      sums.row(home[i]) += points.row(static_cast<Eigen::Index>(i)).cast<double>();
      ++members[static_cast<std::size_t>(home[i])];
    }
    if (round == iterations) break;  // shares are those of the centroids as they stand
    for (std::size_t c = 0; c < count; ++c) {
      const auto row = static_cast<Eigen::Index>(c);
      if (members[c] > 0) result.points.row(row) = (sums.row(row) / static_cast<double>(members[c])).cast<float>();
    }
  }
  for (std::size_t c = 0; c < count; ++c) {
    result.shares[c] = static_cast<float>(static_cast<double>(members[c]) / static_cast<double>(points.rows()));
  }
  return result;
}

void set_centroids(const RowsRef& queries, std::uint32_t count, ProfileLayer& layer) {
  constexpr std::size_t kIterations = 12;
  constexpr std::uint64_t kSeed = 3;
  layer.record.centroid_count = count;
  for (std::uint32_t head = 0; head < layer.record.query_head_count && count > 0; ++head) {
    const Centroids found =
        k_means(queries.middleCols(std::int64_t{head} * layer.record.key_dim, layer.record.key_dim), count, kIterations, kSeed + head);
    layer.centroids.insert(layer.centroids.end(), found.points.data(), found.points.data() + found.points.size());
    layer.centroid_weights.insert(layer.centroid_weights.end(), found.shares.begin(), found.shares.end());
  }
}

}  // namespace cachecard::llama_calibrate
