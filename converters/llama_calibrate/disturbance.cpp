#include "disturbance.hpp"

#include <cmath>

#include "step_codes.hpp"

namespace cachecard::llama_calibrate {

Rows rounded_keys(const Rows& stream, std::uint32_t head, std::span<const std::uint8_t> step_codes, double step) {
  const auto coded = stream.bottomRows(stream.rows() - kExactTokens).cast<double>();
  const Eigen::RowVectorXd means = coded.colwise().mean();
  const double spread = std::sqrt((coded.rowwise() - means).squaredNorm() / static_cast<double>(coded.size()));
  const auto width = static_cast<Eigen::Index>(step_codes.size());
  const Eigen::Index first = static_cast<Eigen::Index>(head) * width;
  Rows out = stream.middleCols(first, width);
  for (Eigen::Index c = 0; c < width; ++c) {
    const double size = step * spread * static_cast<double>(step_factor(step_codes[static_cast<std::size_t>(c)]));
    if (!(size > 0.0)) continue;
    for (Eigen::Index t = kExactTokens; t < out.rows(); ++t) {
      const double deviation = static_cast<double>(out(t, c)) - means(first + c);
      out(t, c) = static_cast<float>(means(first + c) + size * std::nearbyint(deviation / size));
    }
  }
  return out;
}

Rows rounded_values(const Rows& stream, std::uint32_t head, std::uint32_t value_dim, double step) {
  const auto coded = stream.bottomRows(stream.rows() - kExactTokens).cast<double>();
  const double spread = std::sqrt(coded.squaredNorm() / static_cast<double>(coded.size()));
  Rows out = stream.middleCols(static_cast<Eigen::Index>(head) * value_dim, value_dim);
  for (Eigen::Index t = kExactTokens; t < out.rows(); ++t) {
    const double own = std::sqrt(out.row(t).cast<double>().squaredNorm() / value_dim);
    const double size = step * std::sqrt(spread * own);
    if (!(size > 0.0)) continue;
    for (Eigen::Index c = 0; c < out.cols(); ++c) {
      out(t, c) = static_cast<float>(size * std::nearbyint(static_cast<double>(out(t, c)) / size));
    }
  }
  return out;
}

}  // namespace cachecard::llama_calibrate
