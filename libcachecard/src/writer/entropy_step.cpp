// How EntropyPlan finds the step that meets the budget: on samples, then from what all rows say at it.
#include <algorithm>
#include <cmath>
#include <map>

#include "codec/lane_fit.hpp"
#include "writer/entropy_plan.hpp"
#include "writer/entropy_streams.hpp"

namespace cachecard {
namespace {

constexpr std::size_t kMostSamples = 32;
constexpr std::size_t kSampleTokens = 1024;
constexpr std::size_t kFitTokens = 128;  ///< of a class, whose code lengths are summed
constexpr int kSmallestOctave = -10;  ///< of the step, relative to the spread
constexpr int kLargestOctave = 8;
constexpr double kCloseEnough = 0.0005;    ///< of the budget
constexpr double kCloseOnSamples = 0.001;  ///< of what is wanted

}  // namespace

// Whole octaves exactly, the rest by sixteen square roots, so that it is the same on every machine.
double octave_step(double octaves) {
  double step = 1.0;
  double whole = std::floor(octaves);
  for (double rest = octaves - whole, root = std::sqrt(2.0); rest > 0x1p-17; root = std::sqrt(root)) {
    rest *= 2.0;
    if (rest < 1.0) continue;
    step *= root;
    rest -= 1.0;
  }
  return std::ldexp(step, static_cast<int>(whole));
}

struct EntropyPlan::Sample {
  std::size_t stream = 0;
  std::uint32_t first = 0;     ///< channel of the row
  std::uint32_t channels = 0;
  std::vector<kernel::StripToken> tokens;
  std::vector<float> values;   ///< [token][64]
  std::uint64_t coded = 0;
  std::int64_t exponents = 0;  ///< as in Learned, of coded values
  double bits = 0.0;
};

/// One strip of each stream (of some, where there are many), head by head in turn: the first tokens of its first chunk.
Result<std::vector<EntropyPlan::Sample>> EntropyPlan::take_samples() {
  std::vector<std::size_t> streams;
  for (const auto& [s, learned] : learned_) {
    if (learned.coded_values > 0) streams.push_back(s);
  }
  struct Job {
    EntropyPlan& plan;
    std::vector<Sample> samples;
    std::vector<Status> statuses;
  } job{*this, {}, {}};
  // Keys and values in turn: not every second stream.
  const std::size_t stride = (streams.size() / kMostSamples + 1) | 1;
  for (std::size_t i = 0; i < streams.size(); i += stride) job.samples.emplace_back().stream = streams[i];
  job.statuses.resize(job.samples.size());
  options_.parallel(
      job.samples.size(),
      [](void* context, std::size_t i) {
        auto& j = *static_cast<Job*>(context);
        j.statuses[i] = j.plan.load_sample(j.samples[i], i);
      },
      &job);
  for (const Status& s : job.statuses) {
    if (!s) return s.error();
  }
  return std::move(job.samples);
}

Status EntropyPlan::load_sample(Sample& sample, std::size_t number) {
  const StreamRecord& stream = header_.streams[sample.stream];
  const Learned& learned = learned_.at(sample.stream);
  LaneStream frame_only = no_lanes(stream, {});
  frame_only.lanes.resize(row_elements(stream));
  const EntropyStream places(stream, learned.parameters, frame_only, source_.rope_table());
  const auto& place = places.strips()[number % places.strip_count()];
  TokenSpan span = learned.spans.front();
  span.token_count = std::min<std::uint64_t>(span.token_count, kSampleTokens);
  const auto tokens = entropy_tokens(header_, map_, chunk_frame(sample.stream, span));
  const PlanesStream order = order_of(stream, learned.parameters, learned.means, source_.rope_table());
  const auto scratch = scratch_.take();
  if (learned.finite.front() == 0) return {};
  if (Status s = load(sample.stream, order, span, *tokens, *scratch); !s) return s;
  sample.first = place.first;
  sample.channels = place.channels;
  sample.tokens = unit_tokens(*tokens, tokens->of_head(place.unit / places.group_widths().size()),
                              scratch->chunk.unit_energy(place.unit), learned.energy, chunk_references(learned, span));
  sample.coded = tokens->coded_count * place.channels;
  for (const std::int8_t exponent : tokens->of_head(place.head)) sample.exponents += std::int64_t{exponent} * place.channels;
  const kernel::StripValues values = scratch->chunk.strip(place.first);
  sample.values.resize(tokens->count() * kStripWidth);
  for (std::size_t t = 0; t < tokens->count(); ++t) {
    std::copy_n(values.token(t), place.channels, sample.values.data() + t * kStripWidth);
  }
  return {};
}

/// Mean bits a coded value of the samples at a step.
double EntropyPlan::sample_bits(std::vector<Sample>& samples, double step) {
  struct Job {
    EntropyPlan& plan;
    std::vector<Sample>& samples;
    double step;
  } job{*this, samples, step};
  options_.parallel(
      samples.size(),
      [](void* context, std::size_t i) {
        auto& j = *static_cast<Job*>(context);
        Sample& sample = j.samples[i];
        if (sample.coded == 0) return;
        std::vector<float> scales;
        std::vector<kernel::Lane> all = j.plan.lanes_at(j.plan.learned_.at(sample.stream), j.step, scales);
        const auto lanes = std::span(all).subspan(sample.first, sample.channels);
        const auto scale = std::span(scales).subspan(sample.first, sample.channels);
        const kernel::StripValues values{sample.values.data()};
        const auto scratch = j.plan.scratch_.take();
        WeightFit weights;
        weights.add(sample.tokens, values, scale);
        weights.fit(lanes);
        quantise(lanes, scale, sample.tokens, values, kRowReach, scratch->strip, {});
        LaneFit fit(kFitTokens, i);
        fit.add(sample.tokens, scratch->strip.index);
        sample.bits = fit.fit(lanes);
      },
      &job);
  double bits = 0.0;
  std::uint64_t coded = 0;
  for (const Sample& sample : samples) {
    bits += sample.bits;
    coded += sample.coded;
  }
  return coded == 0 ? 0.0 : bits / static_cast<double>(coded);
}

/// Where a falling curve of bits over octaves of step takes a value, from a few of its points.
class StepSearch {
 public:
  /// Octave by octave until the wanted value is between two points. Returns where, by what is known.
  template <class Bits>
  double bracket(double wanted, Bits&& bits) {
    if (points_.empty()) {
      // About a Gauss's, as good as any to begin with.
      const double first = std::clamp(std::round(1.65 - wanted), double{kSmallestOctave}, double{kLargestOctave});
      points_[first] = bits(first);
    }
    while (points_.begin()->second < wanted && points_.begin()->first > kSmallestOctave) {
      const double octave = points_.begin()->first - 1.0;
      points_[octave] = bits(octave);
    }
    while (std::prev(points_.end())->second > wanted && std::prev(points_.end())->first < kLargestOctave) {
      const double octave = std::prev(points_.end())->first + 1.0;
      points_[octave] = bits(octave);
    }
    return between(wanted);
  }
  /// The same, between ever closer points.
  template <class Bits>
  double find(double wanted, Bits&& bits) {
    double octave = bracket(wanted, bits);
    for (int i = 0; i < 3 && !points_.contains(octave); ++i) {
      const double found = points_[octave] = bits(octave);
      octave = between(wanted);
      if (std::abs(found - wanted) <= kCloseOnSamples * wanted) break;
    }
    return octave;
  }
  /// At the largest step that was tried.
  double least() const { return std::prev(points_.end())->second; }

 private:
  double between(double wanted) const {
    auto high = points_.begin();
    while (high != std::prev(points_.end()) && high->second > wanted) ++high;
    if (high == points_.begin() || high->second > wanted) return high->first;
    const auto low = std::prev(high);
    const double fall = low->second - high->second;
    const double part = fall > 0.0 ? (low->second - wanted) / fall : 0.5;
    return low->first + part * (high->first - low->first);
  }
  std::map<double, double> points_;  ///< octave -> bits
};

void EntropyPlan::adopt_step(double step, double bits_a_value) {
  step_ = step;
  for (auto& [s, learned] : learned_) {
    learned.lanes.record.step = static_cast<float>(step_ * double{learned.spread});
    learned.symbol_bits = std::max(0.0, learned.symbol_bits + bits_a_value * static_cast<double>(learned.coded_values));
  }
}

/// How much larger, in octaves, the samples' token steps are than all.
double EntropyPlan::sample_lead(const std::vector<Sample>& samples) const {
  std::int64_t of_samples = 0;
  std::int64_t of_all = 0;
  std::uint64_t sampled = 0;
  std::uint64_t coded = 0;
  for (const Sample& sample : samples) {
    of_samples += sample.exponents;
    sampled += sample.coded;
  }
  for (const auto& [s, learned] : learned_) {
    of_all += learned.exponents;
    coded += learned.coded_values;
  }
  if (sampled == 0 || coded == 0) return 0.0;
  return (static_cast<double>(of_samples) / static_cast<double>(sampled) - static_cast<double>(of_all) / static_cast<double>(coded)) / 2.0;
}

/// What tokens take that rows do not reach.
double EntropyPlan::exact_bytes(std::size_t stream, const Learned& learned) const {
  const StreamRecord& record = header_.streams[stream];
  const auto count = std::count(learned.missed.begin(), learned.missed.end(), std::uint8_t{1});
  return static_cast<double>(count) * static_cast<double>(row_bytes(record, static_cast<DType>(record.dtype)));
}

/// What the segment's bits go to but for symbols, and for how many values.
Result<EntropyPlan::Budget> EntropyPlan::budget() const {
  Budget made;
  double other = 0.0;
  for (const auto& [s, learned] : learned_) {
    const std::uint64_t elements = row_elements(header_.streams[s]);
    for (const TokenSpan& span : learned.spans) made.values += span.token_count * elements;
    made.coded += learned.coded_values;
    other += static_cast<double>(learned.scale_bits + learned.fixed_bits + elements * (32 + (learned.means.empty() ? 0 : 16)));
  }
  for (const References& references : references_) other += 16.0 * static_cast<double>(references.size());
  auto rest = overhead();
  if (!rest) return rest.error();
  made.other = other + 8.0 * static_cast<double>(*rest);
  return made;
}

/// Finds the step on samples, then once more from what all rows say at it.
Status EntropyPlan::find_step() {
  auto counted = budget();
  if (!counted) return counted.error();
  const auto [values, coded, other] = *counted;
  step_ = options_.entropy->step > 0.0 ? options_.entropy->step : 1.0;
  if (coded == 0 || options_.entropy->step > 0.0) return each_stream(&EntropyPlan::learn_lanes);
  auto samples = take_samples();
  if (!samples) return samples.error();
  const double budget = options_.entropy->bits * static_cast<double>(values) - other;
  double wanted = budget / static_cast<double>(coded);
  const auto bits_at = [&](double octave) { return sample_bits(*samples, octave_step(octave)); };
  StepSearch search;
  // The last tokens often have finer steps than the first ones, which the samples are.
  const double lead = sample_lead(*samples);
  double octave = search.find(wanted, bits_at) + lead;
  if (wanted < search.least()) {
    return Error{ErrorCode::kInvalidArgument, kNoOffset, "entropy",
                 "found " + std::to_string(options_.entropy->bits) + " bits a value, the least is " +
                     std::to_string((search.least() * static_cast<double>(coded) + other) / static_cast<double>(values))};
  }
  for (int round = 0; round < 3; ++round) {
    step_ = octave_step(octave);
    if (Status s = each_stream(&EntropyPlan::learn_lanes); !s) return s;
    double found = 0.0;
    bool at_reach = false;
    for (const auto& [s, learned] : learned_) {
      found += learned.symbol_bits + 8.0 * exact_bytes(s, learned);
      at_reach |= learned.at_reach;
    }
    const double miss = (found - budget) / static_cast<double>(coded);
    if (std::abs(miss) <= kCloseEnough * options_.entropy->bits) return {};
    wanted -= miss;
    const double better = search.bracket(wanted, bits_at) + lead;
    if (std::abs(better - octave) <= kCloseOctaves && (better >= octave || !at_reach)) {
      // A step that is as fine as steps go stays what it is, whatever was wanted.
      adopt_step(octave_step(better), better == octave ? 0.0 : -miss);
      return {};
    }
    octave = search.find(wanted, bits_at) + lead;
  }
  return {};
}

}  // namespace cachecard
