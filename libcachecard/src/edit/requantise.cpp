// Larger steps for an entropy card, from the card alone.
#include <algorithm>
#include <array>
#include <cmath>

#include "cachecard/edit.hpp"
#include "edit/kept_sections.hpp"
#include "format/entropy_layout.hpp"
#include "kernel/entropy.hpp"
#include "writer/card_order.hpp"

namespace cachecard {
namespace {

constexpr float kLeastGain = 0x1p-6f;
constexpr float kMostGain = 0x1p6f;

/// Half bits that a token's steps become coarser by at once. Values lie on a grid already: steps up to twice the grid's hardly
/// save anything, at twice most lie between two of them.
constexpr int kCoarser = 3;
constexpr double kMostCoarser = 6.0;  ///< times kCoarser: no token has an offset left by then
constexpr int kMostTries = 8;
constexpr double kMostUsed = 0.9985;   ///< of the budget, as tries aim at
constexpr double kLeastUsed = 0.9955;  ///< what uses as much is kept

/// Counts and forgets.
class CountSink final : public ByteSink {
 public:
  Status write(std::span<const std::byte>) override { return {}; }
  Status commit() override { return {}; }
};

/// Offsets, all tokens `coarser` times kCoarser lower on the mean, and within one time of it.
void lower(std::span<const std::int8_t> offsets, std::uint64_t token_count, double coarser, std::span<std::int8_t> out) {
  constexpr std::uint32_t kGolden = 2654435769u;
  const auto whole = static_cast<int>(coarser);
  const double part = coarser - whole;
  for (std::size_t i = 0; i < offsets.size(); ++i) {
    const auto token = static_cast<std::uint32_t>(i % token_count);
    const bool more = 0x1p-32 * static_cast<double>(token * kGolden) < part;  // every so many-th token, evenly
    out[i] = static_cast<std::int8_t>(std::max<int>(kLeastTokenOffset, offsets[i] - kCoarser * (whole + (more ? 1 : 0))));
  }
}

/// Mean bits of values that had `before` of them, if they were Gauss's, once tokens are coarser. Between whole numbers of `coarser`
/// the share of tokens that are one coarser grows, and bits fall along a line.
class GaussBits {
 public:
  GaussBits(double before, std::span<const std::int8_t> offsets) : before_(before) {
    double sum = 0.0;
    for (const std::int8_t offset : offsets) {
      shares_[static_cast<std::size_t>(offset - kLeastTokenOffset)] += 1.0 / static_cast<double>(offsets.size());
      sum += offset;
    }
    mean_ = offsets.empty() ? 0.0 : sum / static_cast<double>(offsets.size());
  }

  double operator()(double coarser) const {
    const double whole = std::floor(coarser);
    const double bits = at(static_cast<int>(whole));
    return bits + (coarser - whole) * (at(static_cast<int>(whole) + 1) - bits);
  }

 private:
  double at(int steps) const {
    double sum = 0.0;
    for (std::size_t i = 0; i < shares_.size(); ++i) {
      const int offset = kLeastTokenOffset + static_cast<int>(i);
      const int lowered = std::min(kCoarser * steps, offset - kLeastTokenOffset);
      const double bits = std::max(0.05, before_ + (offset - mean_) / 2.0);
      sum += shares_[i] * 0.5 * std::log2(1.0 + (std::exp2(2.0 * bits) - 1.0) * std::exp2(-lowered));
    }
    return sum;
  }

  double before_;
  double mean_ = 0.0;
  std::array<double, kMostTokenOffset - kLeastTokenOffset + 1> shares_{};
};

/// How much coarser a card must be to meet a budget, in few tries: what they take is a line over GaussBits.
class CoarserSearch {
 public:
  /// bytes: of the card as it is
  CoarserSearch(double values, std::uint64_t bytes, std::span<const std::int8_t> offsets, std::uint64_t budget)
      : budget_(static_cast<double>(budget)),
        bytes_a_bit_(values / 8.0),
        bits_(std::min(32.0, 8.0 * static_cast<double>(bytes) / std::max(1.0, values)), offsets) {
    points_.push_back({0.0, static_cast<double>(bytes)});
  }

  /// What to try next; none where the search is over.
  std::optional<double> next() {
    if (done_ || ++tries_ > kMostTries) return std::nullopt;
    if (tries_ == kMostTries && !fits_) return kMostCoarser;
    const bool between = fits_ && over_ && over_->coarser < fits_->coarser;
    const Point& from = between ? *over_ : points_.back();
    const Point& other = between ? *fits_ : points_[points_.size() - std::min<std::size_t>(2, points_.size())];
    const double apart = bits_(other.coarser) - bits_(from.coarser);
    const double slope = (other.bytes - from.bytes) / apart;
    const double bytes_a_bit = apart != 0.0 && slope > 0.0 ? slope : bytes_a_bit_;
    const double coarser = coarser_for(bits_(from.coarser) + (kMostUsed * budget_ - from.bytes) / bytes_a_bit);
    if (between && !(coarser > over_->coarser && coarser < fits_->coarser)) return (over_->coarser + fits_->coarser) / 2.0;
    return coarser;
  }

  void add(double coarser, std::uint64_t bytes) {
    points_.push_back({coarser, static_cast<double>(bytes)});
    const Point& point = points_.back();
    if (point.bytes <= budget_) {
      if (!fits_ || coarser < fits_->coarser) fits_ = point;
      done_ = point.bytes >= kLeastUsed * budget_ || coarser == 0.0;
    } else {
      if (!over_ || coarser > over_->coarser) over_ = point;
      done_ = coarser == kMostCoarser;
    }
  }

  /// The finest that fits; none where nothing does, and then the last try was the coarsest.
  std::optional<double> found() const { return fits_ ? std::optional(fits_->coarser) : std::nullopt; }
  std::uint64_t least() const { return static_cast<std::uint64_t>(points_.back().bytes); }

 private:
  struct Point {
    double coarser = 0.0;
    double bytes = 0.0;
  };

  double coarser_for(double bits) const {
    if (bits >= bits_(0.0)) return 0.0;
    double low = 0.0;
    double high = kMostCoarser;
    for (int i = 0; i < 30; ++i) {
      const double middle = (low + high) / 2.0;
      (bits_(middle) > bits ? low : high) = middle;
    }
    return high;
  }

  double budget_;
  double bytes_a_bit_;
  GaussBits bits_;
  std::vector<Point> points_;  ///< the card as it is, then what was tried
  std::optional<Point> fits_;
  std::optional<Point> over_;
  bool done_ = false;
  int tries_ = 0;
};

Error refused(std::string detail) { return {ErrorCode::kUnsupportedFeature, kNoOffset, "chunk.codec", std::move(detail)}; }

/// What a card's maps and lanes say of how finely its values were kept.
class Coding {
 public:
  Coding(const CardReader& card, CardOptions& options) : card_(card), entropy_(options.entropy.emplace()) {}

  Status take() {
    if (Status s = take_lanes(); !s) return s;
    return take_offsets();
  }

 private:
  Status take_lanes();
  Status take_offsets();
  Result<const LaneStream*> lanes_of(const FrameHeader& frame, const StreamRecord& stream);

  const CardReader& card_;
  EntropyOptions& entropy_;
  std::optional<Lanes> lanes_;
  std::uint64_t digest_ = 0;
};

Result<const LaneStream*> Coding::lanes_of(const FrameHeader& frame, const StreamRecord& stream) {
  auto parameters = card_.parameters(frame.parameter_digest);
  if (!parameters) return parameters.error();
  const std::uint64_t digest = parameters->record.lanes_digest;
  for (std::size_t i = 0; i < card_.frames().size() && (!lanes_ || digest != digest_); ++i) {
    const FrameHeader& section = card_.frames()[i];
    if (section.section_type != static_cast<std::uint16_t>(SectionType::kLanes) || section.stored_digest != digest) continue;
    auto payload = card_.read_section(i);
    if (!payload) return payload.error();
    auto parsed = parse_lanes(*payload);
    if (!parsed) return parsed.error();
    lanes_ = std::move(*parsed);
    digest_ = digest;
  }
  return lanes_ && digest_ == digest ? lanes_->find(stream.layer, stream.stream) : nullptr;
}

/// Each channel's step against the others of its stream. Segments that share no lanes: the first one's.
Status Coding::take_lanes() {
  const CardHeader& header = card_.header();
  EarlierCoding earlier;
  auto summary = card_.summary();
  if (!summary) return summary.error();
  earlier.predicted_error = summary->predicted_error;
  bool any = false;
  for (std::size_t s = 0; s < header.streams.size(); ++s) {
    const StreamRecord& stream = header.streams[s];
    const auto kind = static_cast<StreamKind>(stream.stream);
    const std::size_t channels = kind == StreamKind::kOpaque ? 0 : row_elements(stream);
    const LaneStream* lanes = nullptr;
    for (const std::uint32_t index : kind == StreamKind::kOpaque ? std::span<const std::uint32_t>() : card_.chunks(s)) {
      const FrameHeader& frame = card_.frames()[index];
      if (frame.codec == static_cast<std::uint8_t>(Codec::kPlanes)) {
        return refused("layer " + std::to_string(stream.layer) + " " + std::string(name_of(kind)) +
                       " is planes: bits of keys and values (K,V) drop some of them");
      }
      if (frame.codec != static_cast<std::uint8_t>(Codec::kEntropy) || lanes != nullptr) continue;
      auto found = lanes_of(frame, stream);
      if (!found) return found.error();
      lanes = *found;
    }
    any |= lanes != nullptr;
    earlier.steps.push_back(lanes == nullptr ? 0.0f : lanes->record.step);
    for (std::size_t c = 0; c < channels; ++c) {
      const float step = lanes == nullptr ? 1.0f : kernel::lane_step(kernel::open_lane(lanes->lanes[c]).step);
      entropy_.channel_gains.push_back(std::clamp(step, kLeastGain, kMostGain));
    }
  }
  if (!any) return refused("no chunk is entropy: convert makes an entropy card of exact values");
  entropy_.earlier = std::move(earlier);
  return {};
}

Status Coding::take_offsets() {
  const CardHeader& header = card_.header();
  const std::size_t uses = BitWidthMap::first_use(header, header.streams.size());
  entropy_.token_offsets.assign(uses * header.token_count, 0);
  entropy_.exact_tokens = 0;
  entropy_.fine_tokens = 0;
  std::uint64_t first = 0;
  std::size_t coded_uses = 0;
  std::vector<std::size_t> exact_uses(header.token_count, 0);
  for (std::uint32_t segment = 0; segment < header.segments.size(); ++segment) {
    const std::uint64_t count = header.segments[segment].token_count;
    if (count == 0) continue;
    auto map = card_.map(segment);
    if (!map) return map.error();
    for (std::size_t s = 0; s < header.streams.size(); ++s) {
      if (!is_float_stream(header.streams[s])) continue;
      for (std::size_t use = BitWidthMap::first_use(header, s); use < BitWidthMap::first_use(header, s + 1); ++use) {
        const auto row = map->row(map->row_of[use]);
        coded_uses += segment == 0 ? 1 : 0;
        for (std::uint64_t t = 0; t < count; ++t) {
          const std::int8_t offset = row[t];
          if (offset == kOffsetExact || offset == kOffsetFine) ++exact_uses[first + t];  // fine ones stay what they are, too
          if (offset >= kLeastTokenOffset && offset <= kMostTokenOffset) entropy_.token_offsets[use * header.token_count + first + t] = offset;
        }
      }
    }
    first += count;
  }
  // Other exact tokens are single streams', which no row reached: the encoder finds its own.
  for (std::uint64_t t = 0; t < header.token_count; ++t) {
    if (coded_uses > 0 && exact_uses[t] >= coded_uses) entropy_.sinks.push_back(t);
  }
  return {};
}

std::uint64_t bytes_of(const CardReader& card, double bits) {
  return static_cast<std::uint64_t>(std::max(1.0, bits * float_value_count(card.header()) / 8.0));
}

}  // namespace

Result<TrimReport> requantise(const CardReader& card, ByteSink& sink, const RequantiseOptions& asked) {
  CardOptions options;
  if (Status s = Coding(card, options).take(); !s) return s.error();
  options.parallel = asked.parallel;
  options.source_layout = false;
  auto earlier = card.provenance();
  if (!earlier) return earlier.error();
  options.provenance.hop = earlier->empty() ? 0 : earlier->back().hop;
  options.provenance.operation = ProvenanceOp::kRequantize;
  options.provenance.time = asked.time.value_or(0);
  options.provenance.parent_root = card.trailer().root;
  options.provenance.text = asked.text;
  options.earlier_provenance = std::move(*earlier);
  auto source = card_as_source(card);
  if (!source) return source.error();
  const std::uint64_t budget = asked.file_bytes != 0 ? asked.file_bytes : bytes_of(card, asked.bits);
  const std::vector<std::int8_t> offsets = options.entropy->token_offsets;
  options.entropy->earlier->token_offsets = offsets;
  options.entropy->step = 1.0;
  const auto bytes_at = [&](double coarser) -> Result<std::uint64_t> {
    CountSink count;
    lower(offsets, card.header().token_count, coarser, options.entropy->token_offsets);
    auto made = write_card(**source, count, options);
    if (!made) return made.error();
    return made->file_size;
  };
  std::uint64_t encodes = 0;
  CoarserSearch search(float_value_count(card.header()), card.trailer().file_size, offsets, budget);
  while (const auto next = search.next()) {
    auto bytes = bytes_at(*next);
    if (!bytes) return bytes.error();
    search.add(*next, *bytes);
    ++encodes;
  }
  if (!search.found()) {
    return Error{ErrorCode::kInvalidArgument, kNoOffset, "file_bytes",
                 "found " + std::to_string(budget) + ", the smallest card takes " + std::to_string(search.least())};
  }
  lower(offsets, card.header().token_count, *search.found(), options.entropy->token_offsets);
  auto written = write_card(**source, sink, options);
  if (!written) return written.error();
  TrimReport report;
  report.encodes = encodes + 1;
  report.written = *std::move(written);
  for (const FrameHeader& frame : card.frames()) {
    const auto type = static_cast<SectionType>(frame.section_type);
    report.coded_chunks += type == SectionType::kChunk ? 1 : 0;
    const bool kept = type == SectionType::kText || type == SectionType::kProvenance;
    const std::string name(name_of(type));
    const bool told = std::find(report.dropped.begin(), report.dropped.end(), name) != report.dropped.end();
    if (is_optional(frame) && !kept && !told) report.dropped.push_back(name);
  }
  return report;
}

}  // namespace cachecard
