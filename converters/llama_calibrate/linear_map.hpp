#pragma once

#include <Eigen/Core>

/// Queries from keys and values, by ridge regression. source: notes of the research, entropy-fidelity section 6
namespace cachecard::llama_calibrate {

using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;  ///< [token][channel]
using RowsRef = Eigen::Ref<const Rows, 0, Eigen::OuterStride<>>;

/// Sums over tokens, in doubles.
struct MapSums {
  Eigen::MatrixXd gram;     ///< [input][input], lower half
  Eigen::MatrixXd cross;    ///< [input][query channel]
  Eigen::VectorXd energy;   ///< of squares, by query channel
  Eigen::VectorXd query_sum;
  std::size_t count = 0;

  MapSums() = default;
  MapSums(Eigen::Index inputs, Eigen::Index queries);
  /// inputs: their last column is 1 all along.
  void add(const RowsRef& inputs, const RowsRef& queries);
};

/// queries = up x (down x inputs).
struct LowRankMap {
  Rows down;  ///< [rank][input]
  Rows up;    ///< [query channel][rank]
};

/// Least squares with a ridge of 0.001 of the inputs' mean energy (the constant: next to none), then the rank directions in
/// which the fitted queries vary most. rank is cut to the smaller side. Needs: sums of one token or more
LowRankMap fit_map(const MapSums& sums, Eigen::Index rank);

/// 1 - (squared error / squared deviation from the mean), all query channels together, over the tokens of sums.
double explained(const MapSums& sums, const LowRankMap& map);

}  // namespace cachecard::llama_calibrate
