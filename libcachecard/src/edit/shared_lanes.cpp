#include "edit/shared_lanes.hpp"

#include <algorithm>
#include <cmath>
#include <map>

#include "cachecard/digest.hpp"
#include "codec/scale_code.hpp"
#include "format/entropy_layout.hpp"
#include "format/framing.hpp"
#include "reader/chunk_rows.hpp"
#include "writer/card_order.hpp"

namespace cachecard {
namespace {

bool is_coded(const FrameHeader& frame, Codec codec) { return frame.codec == static_cast<std::uint8_t>(codec); }

std::uint64_t strips_of(const StreamRecord& stream) {
  return std::uint64_t{stream.kv_head_count} * (stream.head_dim + kStripWidth - 1) / kStripWidth;
}

/// The width that most coded tokens have.
std::uint8_t usual_width(const BitWidthMap& map, const CardHeader& header, std::size_t stream) {
  const auto row = map.row(map.row_of[BitWidthMap::first_use(header, stream)]);
  std::map<int, std::size_t> counts;
  for (const std::int8_t offset : row) {
    if (offset != kOffsetExact) ++counts[std::min<int>(map.base[stream] + offset, map.cap[stream])];
  }
  if (counts.empty()) return map.base[stream];
  const auto most = std::max_element(counts.begin(), counts.end(),
                                     [](const auto& a, const auto& b) { return a.second < b.second; });
  return static_cast<std::uint8_t>(most->first);
}

Result<std::vector<TokenBits>> planes_widths(const CardReader& base, const BitWidthMap& map) {
  const PlanesOptions usual;
  std::vector<TokenBits> layers(base.header().layer_count, TokenBits{usual.key_bits, usual.value_bits});
  for (std::size_t s = 0; s < base.header().streams.size(); ++s) {
    const StreamRecord& stream = base.header().streams[s];
    if (!is_float_stream(stream)) continue;
    const auto bits = static_cast<std::uint8_t>(std::clamp(usual_width(map, base.header(), s) / 2, 1, int{kMostBits}));
    (is_value_stream(stream) ? layers[stream.layer].value : layers[stream.layer].key) = bits;
  }
  return layers;
}

double entropy_bits(const CardReader& base, std::uint32_t segment) {
  double bits = 0.0;
  double values = 0.0;
  for (const FrameHeader& frame : base.frames()) {
    if (frame.section_type != static_cast<std::uint16_t>(SectionType::kChunk) || frame.segment != segment ||
        !is_coded(frame, Codec::kEntropy)) {
      continue;
    }
    const StreamRecord& stream =
        base.header().streams[*base.header().stream_index(frame.layer, static_cast<StreamKind>(frame.stream))];
    const auto elements = static_cast<double>(row_elements(stream));
    values += elements * static_cast<double>(frame.token_count);
    bits += 8.0 * static_cast<double>(frame.stored_size) - 32.0 * elements - 64.0 * static_cast<double>(strips_of(stream)) - 256.0;
  }
  return values == 0.0 ? EntropyOptions{}.bits : std::max(bits / values, 0.05);
}

/// The mean square that a chunk's vector scales are relative to: what the vectors have against what the scales say. 0: nothing
/// says it.
double scale_energy(const EntropyChunk& chunk) {
  const EntropyStream& stream = chunk.stream();
  const EntropyTokens& tokens = chunk.tokens();
  double squares = 0.0;
  double scales = 0.0;
  std::uint32_t width = 0;
  for (std::size_t s = 0; s < stream.strip_count(); ++s) {
    const auto& place = stream.strips()[s];
    width = stream.group_widths()[place.unit % stream.group_widths().size()];
    const auto rows = chunk.strip_rows(s);
    const auto unit = chunk.unit_scales(place.unit);
    std::size_t coded = 0;
    for (std::size_t t = 0; t < tokens.count(); ++t) {
      if (tokens.kind[t] != TokenKind::kCoded) continue;
      const std::int8_t scale = unit[coded++];
      if (scale == kLeastScale || scale == kMostScale) continue;
      for (std::uint32_t c = 0; c < place.channels; ++c) {
        const double value = double{stream.scales()[place.first + c]} * rows[t * kStripWidth + c];
        squares += value * value / width;
      }
      scales += std::ldexp(static_cast<double>(place.channels) / width, scale);
    }
  }
  // Scales are rounded to whole octaves: what lies in one is above its middle by this on the mean.
  constexpr double kRounding = 1.0201;
  return scales == 0.0 ? 0.0 : squares / scales / kRounding;
}

/// How far the offsets of each head's coded tokens lie above 0, nearest.
std::vector<std::int8_t> mean_offsets(const BitWidthMap& map, const StreamRecord& stream, std::size_t first_use) {
  std::vector<std::int8_t> means(stream.kv_head_count, 0);
  for (std::uint32_t h = 0; h < stream.kv_head_count; ++h) {
    std::int64_t sum = 0;
    std::int64_t coded = 0;
    for (const std::int8_t offset : map.row(map.row_of[first_use + h])) {
      if (offset < kLeastTokenOffset || offset > kMostTokenOffset) continue;
      sum += offset;
      ++coded;
    }
    if (sum > 0) means[h] = static_cast<std::int8_t>((2 * sum + coded) / (2 * coded));
  }
  return means;
}

/// Finds what one stream's chunk names.
class LaneFinder {
 public:
  LaneFinder(const CardReader& base, const CardHeader& header, std::uint64_t kept, const CacheSource& source)
      : base_(base), header_(header), kept_(kept), source_(source) {
    if (const RopeTable* table = source.rope_table()) table_digest_ = digest64(encode_rope_table(*table));
  }

  struct Found {
    std::size_t stream = 0;
    const FrameHeader* frame = nullptr;
    SharedLane lane;
    double ratio = 0.0;
    Status status;
  };

  /// The last chunk of a stream that stays, if it is entropy in the card order that new chunks will have.
  Result<bool> find(std::size_t stream, Found& found) const {
    const StreamRecord& record = header_.streams[stream];
    const auto old = base_.header().stream_index(record.layer, static_cast<StreamKind>(record.stream));
    if (!old) return false;
    for (const std::uint32_t index : base_.chunks(*old)) {
      const FrameHeader& frame = base_.frames()[index];
      if (frame.first_token + frame.token_count <= kept_) found.frame = &frame;
    }
    if (found.frame == nullptr || !is_coded(*found.frame, Codec::kEntropy)) return false;
    auto parameters = base_.parameters(found.frame->parameter_digest);
    if (!parameters) return parameters.error();
    const Parameters wanted = card_order_parameters(source_, header_, record, Codec::kEntropy, table_digest_, 1);
    const bool same_order = wanted.record.rope_removed == parameters->record.rope_removed &&
                            wanted.record.rope_table_digest == parameters->record.rope_table_digest &&
                            std::equal(wanted.parts.begin(), wanted.parts.end(), parameters->parts.begin(),
                                       parameters->parts.end(), [](const PartRecord& a, const PartRecord& b) {
                                         return a.offset == b.offset && a.width == b.width;
                                       });
    if (!same_order) return false;
    auto map = base_.map(found.frame->segment);
    if (!map) return map.error();
    found.stream = stream;
    found.lane.base = map->base[*old];
    auto segment = take_lanes(parameters->record.lanes_digest, record, found);
    if (!segment) return segment.error();
    if (!*segment) return false;
    // Of the segment that the lanes were made for: later ones have more of the newest tokens, and hops would add up.
    auto first_map = base_.map(**segment);
    if (!first_map) return first_map.error();
    found.lane.shifts = mean_offsets(*first_map, record, BitWidthMap::first_use(base_.header(), *old));
    return true;
  }

  /// Reads the chunk for its scales: squared steps against the energy that they are relative to.
  Status measure(Found& found) const {
    std::vector<std::byte> scratch(chunk_scratch(header_.streams[found.stream], *found.frame));
    auto rows = ChunkRows::open(base_, *found.frame, scratch);
    if (!rows) return rows.error();
    const double step = double{found.lane.lanes.record.step};
    found.ratio = scale_energy(*rows->entropy_chunk()) / (step * step);
    return {};
  }

 private:
  /// The segment whose lanes they are, or nullopt where they do not serve.
  Result<std::optional<std::uint32_t>> take_lanes(std::uint64_t digest, const StreamRecord& record, Found& found) const {
    for (std::size_t i = 0; i < base_.frames().size(); ++i) {
      const FrameHeader& frame = base_.frames()[i];
      if (frame.section_type != static_cast<std::uint16_t>(SectionType::kLanes) || frame.stored_digest != digest) continue;
      if (base_.header().segments[frame.segment].token_count < header_.token_count - kept_) return std::optional<std::uint32_t>();
      auto payload = base_.read_section(i);
      if (!payload) return payload.error();
      auto lanes = parse_lanes(*payload);
      if (!lanes) return lanes.error();
      const LaneStream* mine = lanes->find(record.layer, record.stream);
      if (mine == nullptr) return std::optional<std::uint32_t>();
      found.lane.digest = digest;
      found.lane.lanes = *mine;
      return std::optional(frame.segment);
    }
    return std::optional<std::uint32_t>();
  }

  const CardReader& base_;
  const CardHeader& header_;
  std::uint64_t kept_;
  const CacheSource& source_;
  std::uint64_t table_digest_ = 0;
};

/// The energy that vector scales are relative to, in squared steps of the stream. An encoder has one step for the whole card, so
/// it is measured where values are finest: what was rounded to almost nothing does not show it. 0: nothing does.
Result<double> scale_ratio(const LaneFinder& finder, std::vector<LaneFinder::Found>& found, const ParallelFor& parallel) {
  constexpr int kNearFinest = 2;  // half bits
  std::vector<LaneFinder::Found*> finest;
  int most = 0;
  for (const LaneFinder::Found& one : found) {
    if (one.lane.lanes.record.has_scale != 0) most = std::max<int>(most, one.lane.base);
  }
  for (LaneFinder::Found& one : found) {
    if (one.lane.lanes.record.has_scale != 0 && one.lane.base + kNearFinest >= most) finest.push_back(&one);
  }
  struct Batch {
    const LaneFinder& finder;
    std::vector<LaneFinder::Found*>& finest;
  } batch{finder, finest};
  parallel(
      finest.size(),
      [](void* context, std::size_t i) {
        auto& b = *static_cast<Batch*>(context);
        b.finest[i]->status = b.finder.measure(*b.finest[i]);
      },
      &batch);
  double sum = 0.0;
  for (const LaneFinder::Found* one : finest) {
    if (!one->status) return one->status.error();
    sum += one->ratio;
  }
  return finest.empty() ? 0.0 : sum / static_cast<double>(finest.size());
}

}  // namespace

Result<BaseWidths> widths_of(const CardReader& base, Codec codec) {
  BaseWidths widths;
  const auto segment = static_cast<std::uint32_t>(base.header().segments.size() - 1);
  if (codec == Codec::kEntropy) {
    widths.coded_bits = entropy_bits(base, segment);
    return widths;
  }
  auto map = base.map(segment);
  if (!map) return map.error();
  auto layers = planes_widths(base, *map);
  if (!layers) return layers.error();
  widths.layer_bits = std::move(*layers);
  return widths;
}

double bits_for(double coded_bits, const CardHeader& header, std::uint64_t kept) {
  constexpr double kScaleBits = 4.0;         // about, a head vector
  constexpr double kOfTheCard = 8.0 * 4096;  // header, provenance and summary, which count where no segment stands before
  const std::uint64_t tokens = header.token_count - kept;
  double other = 8.0 * 5.0 * 2.0 * kFrameHeaderSize + 48.0 * static_cast<double>(tokens);  // tables of the segment
  if (kept == 0) other += kOfTheCard;
  double values = 0.0;
  for (const StreamRecord& stream : header.streams) {
    if (!is_float_stream(stream)) continue;
    const auto elements = static_cast<double>(row_elements(stream));
    // Lane states, lanes, means; strip records; the chunk's and the parameters' frames, in place and in the directory.
    other += elements * (32.0 + 32.0 + (is_value_stream(stream) ? 0.0 : 16.0)) + 64.0 * static_cast<double>(strips_of(stream)) +
             8.0 * (4.0 * kFrameHeaderSize + 128.0) + 256.0;
    if (is_value_stream(stream)) other += kScaleBits * stream.kv_head_count * static_cast<double>(tokens);
    const std::uint64_t fine = EntropyOptions{}.fine_tokens;
    if (kept < fine) other += 16.0 * elements * static_cast<double>(std::min(fine - kept, tokens));
    values += elements * static_cast<double>(tokens);
  }
  return values == 0.0 ? coded_bits : std::min(coded_bits + other / values, 4096.0);
}

Result<SharedLanes> lanes_to_share(const CardReader& base, const CardHeader& header, std::uint64_t kept,
                                   const CacheSource& source, const ParallelFor& parallel) {
  const LaneFinder finder(base, header, kept, source);
  std::vector<LaneFinder::Found> found;
  for (std::size_t s = 0; s < header.streams.size(); ++s) {
    if (!is_float_stream(header.streams[s])) continue;
    auto known = finder.find(s, found.emplace_back());
    if (!known) return known.error();
    if (!*known) return SharedLanes{};
  }
  auto ratio = scale_ratio(finder, found, parallel);
  if (!ratio) return ratio.error();
  SharedLanes lanes;
  for (LaneFinder::Found& one : found) {
    if (one.lane.lanes.record.has_scale != 0) {
      const double step = double{one.lane.lanes.record.step};
      one.lane.energy = static_cast<float>(*ratio * step * step);
      if (!(one.lane.energy > 0.0f && std::isfinite(one.lane.energy))) return SharedLanes{};
    }
    lanes.emplace(one.stream, std::move(one.lane));
  }
  return lanes;
}

}  // namespace cachecard
