// Where a budget asks for steps that are finer than lanes reach with, tokens get the rest: their offsets all rise.
#include <algorithm>

#include "format/entropy_layout.hpp"
#include "kernel/planes.hpp"
#include "writer/entropy_plan.hpp"
#include "writer/entropy_streams.hpp"

namespace cachecard {
namespace {

constexpr double kSmallestOctave = -10.0;  ///< of a step that anything is worth
constexpr double kGaussBits = 2.05;     ///< of a value that is kept with a step of its own spread: log2 sqrt(2 pi e)
constexpr double kMostExcess = 1.1;     ///< of a head's error, where some of its channels are as fine as lanes reach
constexpr float kLeastRatio = 0x1p-40f;  ///< channels beyond are all but constant, or all there is
constexpr double kRootHalf = 0x1.6a09e667f3bcdp-1;
constexpr std::int8_t kMostShift = 8;

}  // namespace

/// The step that the budget comes to, if every channel is a Gauss's: its bits are those of its root mean square over its step.
Result<double> EntropyPlan::expected_step() const {
  if (options_.entropy->step > 0.0) return options_.entropy->step;
  auto counted = budget();
  if (!counted) return counted.error();
  std::int64_t sixteenths = 0;  // of an octave, summed as integers: the same on every machine
  std::int64_t channels = 0;
  for (const auto& [s, learned] : learned_) {
    for (std::size_t c = 0; c < learned.least.size(); ++c) {
      const float ratio = learned.least[c] / kLeastRelative / (learned.spread * learned.relative[c]);
      if (!(ratio > kLeastRatio && ratio < 1.0f / kLeastRatio)) continue;
      sixteenths += kernel::planes_range_for(ratio);
      ++channels;
    }
  }
  if (counted->coded == 0 || channels == 0) return 1.0;
  const double bits = (options_.entropy->bits * static_cast<double>(counted->values) - counted->other) / static_cast<double>(counted->coded);
  const double mean = static_cast<double>(sixteenths) / static_cast<double>(channels) / 16.0;
  return octave_step(std::max(kGaussBits - bits + mean, kSmallestOctave));
}

Status EntropyPlan::set_shifts() {
  shifts_.assign(BitWidthMap::first_use(header_, header_.streams.size()), 0);
  auto step = expected_step();
  if (!step) return step.error();
  bool any = false;
  for (auto& [s, learned] : learned_) {
    const StreamRecord& stream = header_.streams[s];
    const std::size_t first = BitWidthMap::first_use(header_, s);
    for (std::uint32_t h = 0; h < stream.kv_head_count; ++h) {
      const std::size_t begin = std::size_t{h} * stream.head_dim;
      double wider = *step * double{learned.spread};
      std::int8_t shift = 0;
      for (; shift < kMostShift; ++shift, wider /= kRootHalf) {
        double excess = 0.0;
        for (std::size_t c = begin; c < begin + stream.head_dim; ++c) {
          const double ratio = std::max(1.0, double{learned.least[c]} / (wider * double{learned.relative[c]}));
          excess += ratio * ratio;
        }
        if (excess <= kMostExcess * stream.head_dim) break;
      }
      if (shift == 0) continue;
      any = true;
      shifts_[first + h] = shift;
      const auto factor = static_cast<float>(octave_step(0.5 * shift));
      for (std::size_t c = begin; c < begin + stream.head_dim; ++c) learned.relative[c] *= factor;
    }
  }
  if (!any) return {};
  map_ = first_map();
  for (auto& [s, learned] : learned_) {
    learned.exponents = 0;
    for (std::size_t i = 0; i < learned.spans.size(); ++i) {
      if (learned.finite[i] == 0) continue;
      const auto tokens = entropy_tokens(header_, map_, chunk_frame(s, learned.spans[i]));
      for (const std::int8_t exponent : tokens->exponents) learned.exponents += std::int64_t{exponent} * header_.streams[s].head_dim;
    }
  }
  return {};
}

}  // namespace cachecard
