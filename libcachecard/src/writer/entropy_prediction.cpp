#include <cmath>

#include "cachecard/allocate.hpp"
#include "writer/entropy_plan.hpp"

namespace cachecard {

double EntropyPlan::predicted_error() const {
  const EntropyOptions& entropy = *options_.entropy;
  if (entropy.costs.empty() || shares_) return 0.0;
  const SegmentRecord& segment = header_.segments[segment_];
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
  return sum * static_cast<double>(segment.token_count) / static_cast<double>(header_.token_count);
}

}  // namespace cachecard
