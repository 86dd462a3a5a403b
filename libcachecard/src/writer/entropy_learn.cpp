// What EntropyPlan finds out about its streams: means, spreads, the step that meets the budget, lanes.
#include <algorithm>
#include <cmath>
#include <map>

#include "codec/lane_fit.hpp"
#include "codec/scale_code.hpp"
#include "format/framing.hpp"
#include "kernel/floats.hpp"
#include "kernel/planes.hpp"
#include "writer/card_order.hpp"
#include "writer/chunk_jobs.hpp"
#include "writer/entropy_plan.hpp"

namespace cachecard {
namespace {

constexpr std::size_t kMostSamples = 32;
constexpr std::size_t kSampleTokens = 1024;
constexpr int kSmallestOctave = -7;  ///< of the step, relative to the spread: rows reach 512 steps, four times the spread
constexpr int kLargestOctave = 8;
constexpr double kCloseEnough = 0.004;     ///< of the budget

LaneStream no_lanes(const StreamRecord& stream, std::vector<std::uint16_t> means) {
  LaneStream lanes;
  lanes.record.layer = stream.layer;
  lanes.record.stream = stream.stream;
  lanes.record.lane_count = static_cast<std::uint32_t>(row_elements(stream));
  lanes.record.has_mean = means.empty() ? 0 : 1;
  lanes.means = std::move(means);
  return lanes;
}

/// The stream in card order, with or without its means.
PlanesStream order_of(const StreamRecord& stream, Parameters parameters, std::span<const std::uint16_t> means,
                      const RopeTable* table) {
  const auto bytes = std::as_bytes(means);
  parameters.data.assign(bytes.begin(), bytes.end());
  parameters.record.data_size = parameters.data.size();
  return PlanesStream(stream, parameters, table);
}

/// Channels of the streams before one, as channel_gains counts them.
std::size_t channels_before(const CardHeader& header, std::size_t stream) {
  std::size_t count = 0;
  for (std::size_t s = 0; s < stream; ++s) count += is_opaque(header.streams[s]) ? 0 : row_elements(header.streams[s]);
  return count;
}

/// Sixteenths of an octave, 128 for 1, nearest.
std::uint8_t step_code(float factor) {
  if (!(factor > kernel::lane_step(0))) return 0;
  if (factor >= kernel::lane_step(255)) return 255;
  const std::int32_t above = kernel::planes_range_for(factor);
  const float high = kernel::planes_range(above);
  const float low = kernel::planes_range(above - 1);
  return static_cast<std::uint8_t>(std::clamp(128 + above - (factor * factor < high * low ? 1 : 0), 0, 255));
}

}  // namespace

Result<ChunkValues> EntropyPlan::load(std::size_t stream, const PlanesStream& order, const TokenSpan& span,
                                      const EntropyTokens& tokens) {
  std::vector<std::byte> rows(span.token_count * order.row_size());
  if (Status s = source_.read_rows(stream, span.first_token, span.token_count, rows); !s) return s.error();
  const auto turned = angles(order, span);
  const auto groups = planes_groups(header_.streams[stream], learned_.at(stream).parameters);
  return chunk_values(order, groups, tokens, rows, turned == nullptr ? nullptr : turned->data());
}

Status EntropyPlan::learn_means(std::size_t index) {
  const StreamRecord& stream = header_.streams[index];
  Learned& learned = learned_.at(index);
  if (is_value_stream(stream)) return {};
  const PlanesStream order = order_of(stream, learned.parameters, {}, source_.rope_table());
  std::vector<double> sums(row_elements(stream));
  std::uint64_t count = 0;
  for (const TokenSpan& span : learned.spans) {
    const auto tokens = entropy_tokens(header_, map_, chunk_frame(index, span));
    auto chunk = load(index, order, span, *tokens);
    if (!chunk) return chunk.error();
    if (chunk->nonfinite) continue;  // refused, or raw, once it is coded
    for (std::size_t t = 0; t < tokens->count(); ++t) {
      if (tokens->kind[t] != TokenKind::kCoded) continue;
      for (std::size_t c = 0; c < sums.size(); ++c) sums[c] += double{chunk->values[t * sums.size() + c]};
      ++count;
    }
  }
  for (const double sum : sums) {
    const auto mean = static_cast<float>(count == 0 ? 0.0 : sum / static_cast<double>(count));
    learned.means.push_back(kernel::f16_from_f32(std::clamp(mean, -65504.0f, 65504.0f)));
  }
  return {};
}

Status EntropyPlan::learn_spreads(std::size_t index) {
  const StreamRecord& stream = header_.streams[index];
  Learned& learned = learned_.at(index);
  const PlanesStream order = order_of(stream, learned.parameters, learned.means, source_.rope_table());
  const auto groups = planes_groups(stream, learned.parameters);
  std::vector<double> squares(row_elements(stream));
  std::vector<std::vector<float>> energies;  // by chunk, [unit][token]
  std::uint64_t count = 0;
  for (const TokenSpan& span : learned.spans) {
    const auto tokens = entropy_tokens(header_, map_, chunk_frame(index, span));
    auto chunk = load(index, order, span, *tokens);
    if (!chunk) return chunk.error();
    learned.fixed_bits += fixed_bits(stream, groups, *tokens) + 8 * kFrameHeaderSize;
    energies.emplace_back();
    if (chunk->nonfinite) continue;
    for (std::size_t t = 0; t < tokens->count(); ++t) {
      if (tokens->kind[t] != TokenKind::kCoded) continue;
      for (std::size_t c = 0; c < squares.size(); ++c) {
        const double v = double{chunk->values[t * squares.size() + c]};
        squares[c] += v * v;
      }
      ++count;
    }
    energies.back() = std::move(chunk->energy);
  }
  learned.coded_values = count * squares.size();
  double all = 0.0;
  for (const double square : squares) all += square;
  const double mean = count == 0 ? 0.0 : all / static_cast<double>(learned.coded_values);
  learned.spread = static_cast<float>(std::sqrt(mean));
  // So that steps stay within what lanes may say; values beyond become exact tokens, and values far below become 0.
  learned.spread = std::clamp(learned.spread, 0x1p-50f, 0x1p50f);
  if (is_value_stream(stream) && mean >= 0x1p-100 && mean <= 0x1p100) learned.energy = static_cast<float>(mean);
  const std::size_t first_use = BitWidthMap::first_use(header_, index);
  const auto& gains = options_.entropy->gains;
  const auto& channels = options_.entropy->channel_gains;
  const std::size_t first_channel = channels.empty() ? 0 : channels_before(header_, index);
  for (std::size_t c = 0; c < squares.size(); ++c) {
    const float head = gains.empty() ? 1.0f : gains[first_use + c / stream.head_dim];
    learned.relative.push_back(channels.empty() ? head : head * channels[first_channel + c]);
  }
  for (std::size_t i = 0; i < learned.spans.size() && learned.energy > 0.0f; ++i) {
    const auto tokens = entropy_tokens(header_, map_, chunk_frame(index, learned.spans[i]));
    for (std::size_t at = 0; at < energies[i].size(); at += tokens->count()) {
      std::vector<std::int8_t> scales;
      for (std::size_t t = 0; t < tokens->count(); ++t) {
        if (tokens->kind[t] == TokenKind::kCoded) scales.push_back(vector_scale(energies[i][at + t], learned.energy));
      }
      learned.scale_bits += scale_bits(scales);
    }
  }
  return {};
}

std::vector<kernel::Lane> EntropyPlan::lanes_at(const Learned& learned, double step, std::vector<float>& scales) const {
  std::vector<kernel::Lane> lanes(learned.relative.size());
  const auto stream_step = static_cast<float>(step * double{learned.spread});
  scales.resize(lanes.size());
  for (std::size_t c = 0; c < lanes.size(); ++c) {
    lanes[c].step = step_code(learned.relative[c]);
    scales[c] = stream_step * kernel::lane_step(lanes[c].step) * 0x1p-6f;
  }
  return lanes;
}

Status EntropyPlan::learn_lanes(std::size_t index) {
  const StreamRecord& stream = header_.streams[index];
  Learned& learned = learned_.at(index);
  const PlanesStream order = order_of(stream, learned.parameters, learned.means, source_.rope_table());
  std::vector<float> scales;
  std::vector<kernel::Lane> lanes = lanes_at(learned, step_, scales);
  LaneStream frame_only = no_lanes(stream, {});
  frame_only.lanes.resize(lanes.size());
  const EntropyStream places(stream, learned.parameters, frame_only, source_.rope_table());
  std::vector<WeightFit> weights(places.strip_count());
  std::vector<LaneFit> fits(places.strip_count());
  std::fill(learned.missed.begin(), learned.missed.end(), std::uint8_t{0});
  StripRows strip;
  const std::size_t groups = places.group_widths().size();
  // Once for the weights, once for the tables, which depend on them.
  for (int pass = 0; pass < 2; ++pass) {
    for (const TokenSpan& span : learned.spans) {
      const auto tokens = entropy_tokens(header_, map_, chunk_frame(index, span));
      auto chunk = load(index, order, span, *tokens);
      if (!chunk) return chunk.error();
      if (chunk->nonfinite) continue;
      const auto references = chunk_references(learned, span);
      if (pass == 0 && references.empty()) continue;
      for (std::size_t s = 0; s < places.strip_count(); ++s) {
        const auto& place = places.strips()[s];
        const auto steps = unit_tokens(*tokens, tokens->of_head(place.unit / groups),
                                       std::span(chunk->energy).subspan(place.unit * tokens->count(), tokens->count()),
                                       learned.energy, references);
        const auto strip_lanes = std::span(lanes).subspan(place.first, place.channels);
        const auto strip_scales = std::span(scales).subspan(place.first, place.channels);
        strip_values(*chunk, place.first, place.channels, strip.values);
        if (pass == 0) {
          weights[s].add(steps, strip.values, strip_scales);
          continue;
        }
        quantise(strip_lanes, strip_scales, steps, strip,
                 std::span(learned.missed)
                     .subspan(span.first_token - header_.segments[segment_].first_token, span.token_count));
        fits[s].add(steps, strip.index);
      }
    }
    for (std::size_t s = 0; s < places.strip_count() && pass == 0; ++s) {
      weights[s].fit(std::span(lanes).subspan(places.strips()[s].first, places.strips()[s].channels));
    }
  }
  learned.symbol_bits = 0.0;
  for (std::size_t s = 0; s < places.strip_count(); ++s) {
    learned.symbol_bits += fits[s].fit(std::span(lanes).subspan(places.strips()[s].first, places.strips()[s].channels));
  }
  learned.lanes = no_lanes(stream, learned.means);
  learned.lanes.record.step = static_cast<float>(step_ * double{learned.spread});
  learned.lanes.record.has_scale = learned.energy > 0.0f ? 1 : 0;
  for (const kernel::Lane& lane : lanes) learned.lanes.lanes.push_back(kernel::pack_lane(lane));
  return {};
}

struct EntropyPlan::Sample {
  std::size_t stream = 0;
  std::uint32_t first = 0;     ///< channel of the row
  std::uint32_t channels = 0;
  std::vector<kernel::StripToken> tokens;
  StripRows strip;
  std::uint64_t coded = 0;
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
  const std::size_t stride = streams.size() / kMostSamples + 1;
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
  auto chunk = load(sample.stream, order, span, *tokens);
  if (!chunk) return chunk.error();
  if (chunk->nonfinite) return {};
  sample.first = place.first;
  sample.channels = place.channels;
  sample.tokens = unit_tokens(*tokens, tokens->of_head(place.unit / places.group_widths().size()),
                              std::span(chunk->energy).subspan(place.unit * tokens->count(), tokens->count()),
                              learned.energy, chunk_references(learned, span));
  sample.coded = tokens->coded_count * place.channels;
  strip_values(*chunk, place.first, place.channels, sample.strip.values);
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
        WeightFit weights;
        weights.add(sample.tokens, sample.strip.values, scale);
        weights.fit(lanes);
        quantise(lanes, scale, sample.tokens, sample.strip, {});
        LaneFit fit;
        fit.add(sample.tokens, sample.strip.index);
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
  template <class Bits>
  double find(double wanted, Bits&& bits) {
    // Octave by octave until the wanted value is between two points, then between ever closer ones.
    while (points_.begin()->second < wanted && points_.begin()->first > kSmallestOctave) {
      const double octave = points_.begin()->first - 1.0;
      points_[octave] = bits(octave);
    }
    while (std::prev(points_.end())->second > wanted && std::prev(points_.end())->first < kLargestOctave) {
      const double octave = std::prev(points_.end())->first + 1.0;
      points_[octave] = bits(octave);
    }
    double octave = between(wanted);
    for (int i = 0; i < 3 && !points_.contains(octave); ++i) {
      points_[octave] = bits(octave);
      octave = between(wanted);
    }
    return octave;
  }
  explicit StepSearch(double bits_at_octave_0) : points_{{0.0, bits_at_octave_0}} {}

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

/// 2^octaves: whole ones exactly, the rest by sixteen square roots, so that it is the same on every machine.
double step_at(double octaves) {
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

/// Finds the step on samples, then from what all rows say at it, once or twice.
Status EntropyPlan::find_step() {
  std::uint64_t values = 0;
  std::uint64_t coded = 0;
  double other = 0.0;
  for (auto& [s, learned] : learned_) {
    const std::uint64_t elements = row_elements(header_.streams[s]);
    for (const TokenSpan& span : learned.spans) values += span.token_count * elements;
    coded += learned.coded_values;
    other += static_cast<double>(learned.scale_bits + learned.fixed_bits + elements * (32 + (learned.means.empty() ? 0 : 16)));
  }
  for (const References& references : references_) other += 16.0 * static_cast<double>(references.size());
  auto rest = overhead();
  if (!rest) return rest.error();
  other += 8.0 * static_cast<double>(*rest);
  auto samples = take_samples();
  if (!samples) return samples.error();
  const double budget = options_.entropy->bits * static_cast<double>(values) - other;
  double wanted = coded == 0 ? 0.0 : budget / static_cast<double>(coded);
  const auto bits_at = [&](double octave) { return sample_bits(*samples, step_at(octave)); };
  const double least = bits_at(kLargestOctave);
  if (coded > 0 && wanted < least) {
    return Error{ErrorCode::kInvalidArgument, kNoOffset, "entropy",
                 "found " + std::to_string(options_.entropy->bits) + " bits a value, the least is " +
                     std::to_string((least * static_cast<double>(coded) + other) / static_cast<double>(values))};
  }
  step_ = 1.0;
  StepSearch search(bits_at(0.0));
  for (int round = 0; round < 3 && coded > 0; ++round) {
    step_ = step_at(search.find(wanted, bits_at));
    if (round == 2) break;
    if (Status s = each_stream(&EntropyPlan::learn_lanes); !s) return s;
    double found = 0.0;
    for (const auto& [s, learned] : learned_) found += learned.symbol_bits;
    const double miss = found - budget;
    if (std::abs(miss) <= kCloseEnough * options_.entropy->bits * static_cast<double>(values)) return {};
    wanted = std::max(least, wanted - miss / static_cast<double>(coded));
  }
  return each_stream(&EntropyPlan::learn_lanes);
}

}  // namespace cachecard
