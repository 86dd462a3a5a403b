#include <cmath>

#include "cachecard/allocate.hpp"
#include "writer/entropy_plan.hpp"

namespace cachecard {

double EntropyPlan::predicted_error() const {
  const EntropyOptions& entropy = *options_.entropy;
  const SegmentRecord& segment = header_.segments[segment_];
  const double share = static_cast<double>(segment.token_count) / static_cast<double>(header_.token_count);
  if (entropy.earlier) return share * added_up(*entropy.earlier);
  if (entropy.costs.empty() || shares_) return 0.0;
  double sum = 0.0;
  for (const auto& [s, learned] : learned_) {
    const std::size_t first = BitWidthMap::first_use(header_, s);
    for (std::size_t use = first; use < BitWidthMap::first_use(header_, s + 1); ++use) {
      const double step = step_ * (entropy.gains.empty() ? 1.0 : double{entropy.gains[use]});
      std::span<const std::int8_t> offsets;
      if (!entropy.token_offsets.empty()) {
        offsets = std::span(entropy.token_offsets).subspan(use * header_.token_count + segment.first_token, segment.token_count);
      }
      sum += entropy.costs[use] * relative_step_square(step) * offsets_error(offsets);
    }
  }
  return share * sum;
}

/// Errors of independent roundings add up, by their squares: tokens with the steps that they had get none.
double EntropyPlan::added_up(const EarlierCoding& earlier) const {
  double sum = 0.0;
  std::size_t count = 0;
  for (const auto& [s, learned] : learned_) {
    if (!(earlier.steps[s] > 0.0f) || earlier.token_offsets.empty()) continue;
    for (std::size_t use = BitWidthMap::first_use(header_, s); use < BitWidthMap::first_use(header_, s + 1); ++use) {
      for (std::uint64_t t = header_.segments[segment_].first_token, end = t + header_.segments[segment_].token_count; t < end; ++t) {
        const std::size_t at = use * header_.token_count + t;
        const int coarser = earlier.token_offsets[at] - options_.entropy->token_offsets[at];
        sum += coarser <= 0 ? 0.0 : std::ldexp(1.0, coarser);
        ++count;
      }
    }
  }
  return count == 0 ? 0.0 : earlier.predicted_error * (1.0 + sum / static_cast<double>(count));
}

}  // namespace cachecard
