#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace cachecard::llama_calibrate {

/// Next-token distributions to compare others with, from logits. Sums are of doubles.
class Distributions {
 public:
  Distributions() = default;
  explicit Distributions(std::size_t vocabulary) : vocabulary_(vocabulary) {}
  /// Needs: as many logits as the vocabulary has tokens
  void add(std::span<const float> logits);
  std::size_t count() const { return log_sums_.size(); }
  /// Nats of KL from distribution `index` to that of other logits.
  double divergence(std::size_t index, std::span<const float> logits) const;

 private:
  std::size_t vocabulary_ = 0;
  std::vector<double> shares_;   ///< [distribution][token]
  std::vector<double> logits_sum_;  ///< sum of share x logit
  std::vector<double> log_sums_;
};

}  // namespace cachecard::llama_calibrate
