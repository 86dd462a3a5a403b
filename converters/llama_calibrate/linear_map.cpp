#include "linear_map.hpp"

#include <Eigen/Cholesky>
#include <Eigen/Eigenvalues>
#include <algorithm>

namespace cachecard::llama_calibrate {
namespace {

constexpr double kRidge = 1e-3;
constexpr double kConstantRidge = 1e-6;
constexpr Eigen::Index kBlockRows = 256;  ///< products in floats over so many tokens, summed in doubles

}  // namespace

MapSums::MapSums(Eigen::Index inputs, Eigen::Index queries)
    : gram(Eigen::MatrixXd::Zero(inputs, inputs)),
      cross(Eigen::MatrixXd::Zero(inputs, queries)),
      energy(Eigen::VectorXd::Zero(queries)),
      query_sum(Eigen::VectorXd::Zero(queries)) {}

void MapSums::add(const RowsRef& inputs, const RowsRef& queries) {
  for (Eigen::Index at = 0; at < inputs.rows(); at += kBlockRows) {
    const Eigen::Index rows = std::min(kBlockRows, inputs.rows() - at);
    const auto x = inputs.middleRows(at, rows);
    const auto q = queries.middleRows(at, rows);
    Eigen::MatrixXf squares = Eigen::MatrixXf::Zero(x.cols(), x.cols());
    squares.selfadjointView<Eigen::Lower>().rankUpdate(x.transpose());
    gram.triangularView<Eigen::Lower>() += squares.cast<double>();
    const Eigen::MatrixXf products = x.transpose() * q;
    cross += products.cast<double>();
    energy += q.cast<double>().colwise().squaredNorm().transpose();
    query_sum += q.cast<double>().colwise().sum().transpose();
    count += static_cast<std::size_t>(rows);
  }
}

LowRankMap fit_map(const MapSums& sums, Eigen::Index rank) {
  const Eigen::Index inputs = sums.gram.rows();
  Eigen::MatrixXd gram = sums.gram.selfadjointView<Eigen::Lower>();
  Eigen::MatrixXd ridged = gram;
  ridged.diagonal().array() += kRidge * gram.diagonal().mean();
  ridged(inputs - 1, inputs - 1) = gram(inputs - 1, inputs - 1) + kConstantRidge;
  const Eigen::MatrixXd whole = ridged.llt().solve(sums.cross);
  const Eigen::MatrixXd fitted = whole.transpose() * gram * whole;
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(fitted);
  const Eigen::MatrixXd up = solver.eigenvectors().rightCols(std::min({rank, inputs, fitted.rows()})).rowwise().reverse();
  LowRankMap map;
  map.down = (whole * up).transpose().cast<float>();
  map.up = up.cast<float>();
  return map;
}

double explained(const MapSums& sums, const LowRankMap& map) {
  const Eigen::MatrixXd whole = (map.up * map.down).cast<double>().transpose();  // [input][query channel]
  const Eigen::MatrixXd gram = sums.gram.selfadjointView<Eigen::Lower>();
  const double fitted = (gram * whole).cwiseProduct(whole).sum();
  const double error = sums.energy.sum() - 2.0 * sums.cross.cwiseProduct(whole).sum() + fitted;
  const double deviation = sums.energy.sum() - sums.query_sum.squaredNorm() / static_cast<double>(sums.count);
  return deviation > 0.0 ? 1.0 - error / deviation : 0.0;
}

}  // namespace cachecard::llama_calibrate
