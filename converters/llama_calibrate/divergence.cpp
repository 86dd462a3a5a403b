#include "divergence.hpp"

#include <Eigen/Core>
#include <cmath>

namespace cachecard::llama_calibrate {
namespace {

using Logits = Eigen::Map<const Eigen::ArrayXf>;

Logits as_array(std::span<const float> logits) { return {logits.data(), static_cast<Eigen::Index>(logits.size())}; }

double log_sum(const Logits& logits) {
  const auto most = static_cast<double>(logits.maxCoeff());
  return most + std::log((logits.cast<double>() - most).exp().sum());
}

}  // namespace

void Distributions::add(std::span<const float> logits) {
  const Logits values = as_array(logits);
  log_sums_.push_back(log_sum(values));
  const Eigen::ArrayXd shares = (values.cast<double>() - log_sums_.back()).exp();
  shares_.insert(shares_.end(), shares.data(), shares.data() + shares.size());
  logits_sum_.push_back((shares * values.cast<double>()).sum());
}

double Distributions::divergence(std::size_t index, std::span<const float> logits) const {
  const Logits values = as_array(logits);
  const Eigen::Map<const Eigen::ArrayXd> shares(shares_.data() + index * vocabulary_, static_cast<Eigen::Index>(vocabulary_));
  return logits_sum_[index] - (shares * values.cast<double>()).sum() + log_sum(values) - log_sums_[index];
}

}  // namespace cachecard::llama_calibrate
