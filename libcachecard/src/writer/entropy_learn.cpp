// What EntropyPlan finds out about its streams: means, spreads, the step that meets the budget, lanes.
#include <algorithm>
#include <cmath>

#include "codec/entropy_overflow.hpp"
#include "codec/lane_fit.hpp"
#include "codec/scale_code.hpp"
#include "format/framing.hpp"
#include "kernel/floats.hpp"
#include "kernel/planes.hpp"
#include "writer/card_order.hpp"
#include "writer/chunk_jobs.hpp"
#include "writer/entropy_plan.hpp"
#include "writer/entropy_streams.hpp"

namespace cachecard {
namespace {

constexpr std::size_t kTileTokens = 32;
constexpr std::size_t kFitTokens = 256;  ///< of a class in a chunk, whose code lengths are summed
/// Rows that stay within it are in reach at a step that is a little smaller, too.
constexpr float kSafeReach = 0.94f * kRowReach;
constexpr double kSafeGrowth = 1.0 / 0.94;  ///< what holds for so much larger steps holds for one that is a little larger
static_assert(kCloseOctaves < 0.089, "log2 of kSafeGrowth");

/// Sixteenths of an octave, 128 for 1, nearest.
std::uint8_t step_code(float factor) {
  if (!(factor > kernel::lane_step(0))) return 0;
  if (factor >= kernel::lane_step(255)) return 255;
  const std::int32_t above = kernel::planes_range_for(factor);
  const float high = kernel::planes_range(above);
  const float low = kernel::planes_range(above - 1);
  return static_cast<std::uint8_t>(std::clamp(128 + above - (factor * factor < high * low ? 1 : 0), 0, 255));
}

/// Channels of the streams before one, as channel_gains counts them.
std::size_t channels_before(const CardHeader& header, std::size_t stream) {
  std::size_t count = 0;
  for (std::size_t s = 0; s < stream; ++s) count += is_opaque(header.streams[s]) ? 0 : row_elements(header.streams[s]);
  return count;
}

}  // namespace

Status EntropyPlan::load(std::size_t stream, const PlanesStream& order, const TokenSpan& span, const EntropyTokens& tokens,
                         EntropyScratch& scratch) {
  const Learned& learned = learned_.at(stream);
  scratch.rows.resize(span.token_count * order.row_size());
  if (Status s = source_.read_rows(stream, span.first_token, span.token_count, scratch.rows); !s) return s;
  const auto turned = angles(order, span);
  const auto groups = planes_groups(header_.streams[stream], learned.parameters);
  load_values(order, groups, tokens, 0, span.token_count, scratch.rows, turned == nullptr ? nullptr : turned->data(),
              learned.energy > 0.0f ? ValueFacts::kFiniteAndEnergy : ValueFacts::kFinite, scratch.chunk);
  return {};
}

/// Sums over a stream's coded tokens, by channel.
struct EntropyPlan::Moments {
  std::vector<float> origin;  ///< a row: sums around it lose nothing where a mean is far from zero
  std::vector<double> sums;
  std::vector<double> squares;
  std::uint64_t count = 0;
  std::vector<std::vector<float>> energies;  ///< by chunk that was added, [unit][token]; of value streams
};

bool EntropyPlan::has_means(const StreamRecord& stream) const { return options_.entropy->means && !is_value_stream(stream); }

/// Adds a chunk, unless it has values that are not finite. In small tiles, that they stay in the processor's cache.
Status EntropyPlan::add_moments(std::size_t index, const PlanesStream& order, const TokenSpan& span, Moments& moments) {
  const StreamRecord& stream = header_.streams[index];
  Learned& learned = learned_.at(index);
  const bool is_value = is_value_stream(stream);
  const auto groups = planes_groups(stream, learned.parameters);
  const auto tokens = entropy_tokens(header_, map_, chunk_frame(index, span));
  const auto scratch = scratch_.take();
  scratch->rows.resize(span.token_count * order.row_size());
  if (Status s = source_.read_rows(index, span.first_token, span.token_count, scratch->rows); !s) return s;
  learned.fixed_bits += fixed_bits(stream, groups, *tokens) + 8 * kFrameHeaderSize;
  const auto turned = angles(order, span);
  const std::size_t elements = row_elements(stream);
  std::vector<double> sums(elements), squares(elements);
  std::uint64_t count = 0;
  std::vector<float> energies(is_value ? order.unit_count() * span.token_count : 0);
  moments.energies.emplace_back();
  learned.finite.push_back(0);
  const ChunkValues& tile = scratch->chunk;
  for (std::size_t first = 0; first < span.token_count; first += kTileTokens) {
    const std::size_t size = std::min<std::size_t>(kTileTokens, span.token_count - first);
    load_values(order, groups, *tokens, first, size, scratch->rows, turned == nullptr ? nullptr : turned->data(),
                is_value ? ValueFacts::kFiniteAndEnergy : ValueFacts::kFinite, scratch->chunk);
    if (tile.nonfinite) return {};
    for (std::size_t u = 0; u * span.token_count < energies.size(); ++u) {
      const auto of_unit = tile.unit_energy(u);
      std::copy(of_unit.begin(), of_unit.end(), energies.begin() + static_cast<std::ptrdiff_t>(u * span.token_count + first));
    }
    for (std::size_t t = 0; t < size;) {
      const auto is_coded = [&](std::size_t i) { return tokens->kind[first + i] == TokenKind::kCoded; };
      std::size_t end = t;
      while (end < size && is_coded(end)) ++end;
      const auto rows = std::span(tile.values).subspan(t * elements, (end - t) * elements);
      if (moments.origin.empty() && end > t) {
        moments.origin.assign(rows.begin(), rows.begin() + static_cast<std::ptrdiff_t>(elements));
        if (!has_means(stream)) std::fill(moments.origin.begin(), moments.origin.end(), 0.0f);
      }
      if (end > t) kernel::entropy_kernels().add_moments(rows, moments.origin, sums.data(), squares.data());
      count += end - t;
      t = end + 1;
    }
  }
  for (std::size_t c = 0; c < elements; ++c) {
    moments.sums[c] += sums[c];
    moments.squares[c] += squares[c];
  }
  moments.count += count;
  moments.energies.back() = std::move(energies);
  for (const std::int8_t exponent : tokens->exponents) learned.exponents += std::int64_t{exponent} * stream.head_dim;
  learned.finite.back() = 1;
  return {};
}

/// Means, and squares around them.
void EntropyPlan::set_moments(const Moments& moments, const StreamRecord& stream, Learned& learned,
                              std::vector<double>& squares) const {
  const auto count = static_cast<double>(moments.count);
  squares = moments.squares;
  if (!has_means(stream)) return;
  for (std::size_t c = 0; c < squares.size(); ++c) {
    const double origin = moments.origin.empty() ? 0.0 : double{moments.origin[c]};
    const double away = moments.count == 0 ? 0.0 : moments.sums[c] / count;
    const auto mean = static_cast<float>(origin + away);  // NaN where f32's sums were too large
    learned.means.push_back(std::isnan(mean) ? std::uint16_t{0} : kernel::f16_from_f32(std::clamp(mean, -65504.0f, 65504.0f)));
    const double moved = double{kernel::f32_from_f16(learned.means.back())} - origin;
    squares[c] = std::max(0.0, squares[c] - moved * (2.0 * moments.sums[c] - count * moved));
  }
}

Status EntropyPlan::learn_spreads(std::size_t index) {
  const StreamRecord& stream = header_.streams[index];
  Learned& learned = learned_.at(index);
  const PlanesStream order = order_of(stream, learned.parameters, {}, source_.rope_table());
  Moments moments;
  moments.sums.resize(row_elements(stream));
  moments.squares.resize(row_elements(stream));
  for (const TokenSpan& span : learned.spans) {
    if (Status s = add_moments(index, order, span, moments); !s) return s;
  }
  std::vector<double> squares;
  set_moments(moments, stream, learned, squares);
  const std::uint64_t count = moments.count;
  learned.coded_values = count * squares.size();
  double all = 0.0;
  for (const double square : squares) all += square;
  const double mean = count == 0 ? 0.0 : all / static_cast<double>(learned.coded_values);
  learned.spread = static_cast<float>(std::sqrt(mean));
  // Steps are then relative to those that the values have.
  const auto& earlier = options_.entropy->earlier;
  if (earlier && earlier->steps[index] > 0.0f) learned.spread = earlier->steps[index];
  // So that steps stay within what lanes may say; values beyond become exact tokens, and values far below become 0.
  learned.spread = std::clamp(learned.spread, 0x1p-50f, 0x1p50f);
  if (options_.entropy->value_scales && is_value_stream(stream) && mean >= 0x1p-100 && mean <= 0x1p100) learned.energy = static_cast<float>(mean);
  const std::size_t first_use = BitWidthMap::first_use(header_, index);
  const auto& gains = options_.entropy->gains;
  const auto& channels = options_.entropy->channel_gains;
  const std::size_t first_channel = channels.empty() ? 0 : channels_before(header_, index);
  for (std::size_t c = 0; c < squares.size(); ++c) {
    const float head = gains.empty() ? 1.0f : gains[first_use + c / stream.head_dim];
    learned.relative.push_back(channels.empty() ? head : head * channels[first_channel + c]);
    learned.least.push_back(count == 0 ? 0.0f : static_cast<float>(std::sqrt(squares[c] / static_cast<double>(count))) * kLeastRelative);
  }
  for (std::size_t i = 0; i < learned.spans.size() && learned.energy > 0.0f; ++i) {
    const auto tokens = entropy_tokens(header_, map_, chunk_frame(index, learned.spans[i]));
    for (std::size_t at = 0; at < moments.energies[i].size(); at += tokens->count()) {
      std::vector<std::int8_t> scales;
      for (std::size_t t = 0; t < tokens->count(); ++t) {
        if (tokens->kind[t] != TokenKind::kCoded) continue;
        scales.push_back(vector_scale(moments.energies[i][at + t], learned.energy));
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
    lanes[c].step = step_code(std::max(learned.relative[c], learned.least[c] / stream_step));
    scales[c] = stream_step * kernel::lane_step(lanes[c].step) * 0x1p-6f;
  }
  return lanes;
}

/// A stream's lanes on their way, and the chunk at hand.
struct EntropyPlan::LaneSearch {
  std::size_t stream;
  Learned& learned;
  PlanesStream order;
  EntropyStream places;  ///< for its strips
  std::vector<kernel::Lane> lanes;
  std::vector<float> scales;
  ScratchPool::Lease scratch;
  EntropyTokens tokens;
  std::optional<std::size_t> span;  ///< whose values are in scratch

  std::span<kernel::Lane> strip_lanes(const EntropyStream::StripPlace& place) {
    return std::span(lanes).subspan(place.first, place.channels);
  }
  std::span<const float> strip_scales(const EntropyStream::StripPlace& place) const {
    return std::span(scales).subspan(place.first, place.channels);
  }
  std::vector<kernel::StripToken> steps(const EntropyStream::StripPlace& place, std::span<const std::uint16_t> references) const {
    return unit_tokens(tokens, tokens.of_head(place.unit / places.group_widths().size()),
                       scratch->chunk.unit_energy(place.unit), learned.energy, references);
  }
};

Status EntropyPlan::load(LaneSearch& search, std::size_t span) {
  if (search.span == span) return {};
  const TokenSpan& of = search.learned.spans[span];
  search.tokens = *entropy_tokens(header_, map_, chunk_frame(search.stream, of));
  search.span = span;
  return load(search.stream, search.order, of, search.tokens, *search.scratch);
}

Status EntropyPlan::learn_weights(LaneSearch& search) {
  std::vector<WeightFit> weights(search.places.strip_count());
  for (std::size_t i = 0; i < search.learned.spans.size(); ++i) {
    const auto references = chunk_references(search.learned, search.learned.spans[i]);
    if (search.learned.finite[i] == 0 || references.empty()) continue;
    if (Status s = load(search, i); !s) return s;
    for (std::size_t s = 0; s < weights.size(); ++s) {
      const auto& place = search.places.strips()[s];
      weights[s].add(search.steps(place, references), search.scratch->chunk.strip(place.first), search.strip_scales(place));
    }
  }
  for (std::size_t s = 0; s < weights.size(); ++s) weights[s].fit(search.strip_lanes(search.places.strips()[s]));
  return {};
}

/// Levels and shapes, which depend on the weights. The last chunk first: its values are at hand.
Status EntropyPlan::learn_tables(LaneSearch& search) {
  Learned& learned = search.learned;
  std::vector<LaneFit> fits;
  for (std::size_t s = 0; s < search.places.strip_count(); ++s) fits.emplace_back(kFitTokens, search.stream + s);
  std::fill(learned.missed.begin(), learned.missed.end(), std::uint8_t{0});
  learned.at_reach = false;
  const EntropyOverflow overflow(search.order, search.places.group_widths(), search.scales, kSafeGrowth);
  for (std::size_t i = learned.spans.size(); i-- > 0;) {
    if (learned.finite[i] == 0) continue;
    if (Status s = load(search, i); !s) return s;
    const TokenSpan& span = learned.spans[i];
    const auto missed = std::span(learned.missed)
                            .subspan(span.first_token - header_.segments[segment_].first_token, span.token_count);
    for (std::size_t s = 0; s < fits.size(); ++s) {
      const auto& place = search.places.strips()[s];
      const auto steps = search.steps(place, chunk_references(learned, span));
      StripRows& strip = search.scratch->strip;
      const kernel::StripValues values = search.scratch->chunk.strip(place.first);
      const auto scale = search.strip_scales(place);
      if (quantise(search.strip_lanes(place), scale, steps, values, kSafeReach, strip, {}) > 0) {
        learned.at_reach = true;
        quantise(search.strip_lanes(place), scale, steps, values, kRowReach, strip, missed);
      }
      fits[s].add(steps, strip.index);
    }
    const EntropyScratch& loaded = *search.scratch;
    if (overflow.possible(search.tokens, loaded.rows)) {
      overflow.mark(search.tokens, loaded.rows, loaded.chunk, learned.energy, missed);
    }
  }
  learned.symbol_bits = 0.0;
  for (std::size_t s = 0; s < fits.size(); ++s) {
    learned.symbol_bits += fits[s].fit(search.strip_lanes(search.places.strips()[s]));
  }
  return {};
}

Status EntropyPlan::learn_lanes(std::size_t index) {
  const StreamRecord& stream = header_.streams[index];
  Learned& learned = learned_.at(index);
  LaneStream frame_only = no_lanes(stream, {});
  frame_only.lanes.resize(row_elements(stream));
  LaneSearch search{index,
                    learned,
                    order_of(stream, learned.parameters, learned.means, source_.rope_table()),
                    EntropyStream(stream, learned.parameters, frame_only, source_.rope_table()),
                    {},
                    {},
                    scratch_.take(),
                    {},
                    {}};
  search.lanes = lanes_at(learned, step_, search.scales);
  if (Status s = learn_weights(search); !s) return s;
  if (Status s = learn_tables(search); !s) return s;
  learned.lanes = no_lanes(stream, learned.means);
  learned.lanes.record.step = static_cast<float>(step_ * double{learned.spread});
  learned.lanes.record.has_scale = learned.energy > 0.0f ? 1 : 0;
  for (const kernel::Lane& lane : search.lanes) learned.lanes.lanes.push_back(kernel::pack_lane(lane));
  return {};
}

}  // namespace cachecard
