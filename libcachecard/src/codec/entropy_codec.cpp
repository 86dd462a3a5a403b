#include "codec/entropy_codec.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>

#include "base/bytes.hpp"
#include "base/checked.hpp"
#include "codec/scale_code.hpp"
#include "format/framing.hpp"
#include "kernel/entropy_frequencies.hpp"
#include "kernel/floats.hpp"

namespace cachecard {
namespace {

constexpr std::size_t kRowBytes = kStripWidth * sizeof(std::int16_t);

/// The planes codec's view of the same stream: card order and means.
PlanesStream card_order(const StreamRecord& stream, Parameters parameters, const LaneStream& lanes, const RopeTable* table) {
  ByteWriter means;
  means.numbers(std::span(lanes.means));
  parameters.data = means.take();
  parameters.record.data_size = parameters.data.size();
  return PlanesStream(stream, parameters, table);
}

/// The channels of a strip as runs that lie side by side in the source's head. first: channel of the head.
std::vector<kernel::StripRun> strip_runs(const kernel::PlanesShape& shape, std::uint32_t first, std::uint32_t count) {
  std::vector<kernel::StripRun> runs;
  for (std::uint32_t c = first; c < first + count;) {
    const bool is_rotated = shape.pairing != RopePairing::kNone && c < shape.rotated_width;
    std::uint32_t end = first + count;
    kernel::StripRun run;
    run.first = c - first;
    run.rotated = is_rotated;
    run.source = c;
    if (is_rotated) {
      end = std::min(end, shape.rotated_width);
      const bool split = shape.pairing == RopePairing::kHalfSplit;
      run.split = split ? shape.rotated_width / 2 : 0;
      run.source = shape.rotated_offset + (split ? c / 2 : c);
      run.pair = c / 2;
    } else if (shape.pairing != RopePairing::kNone && c < shape.rotated_width + shape.rotated_offset) {
      end = std::min(end, shape.rotated_width + shape.rotated_offset);
      run.source = c - shape.rotated_width;
    }
    run.count = end - c;
    runs.push_back(run);
    c = end;
  }
  return runs;
}

/// Hands out pieces of a block of memory, each at a multiple of 64.
class Pieces {
 public:
  explicit Pieces(std::span<std::byte> bytes) : rest_(bytes) {}
  template <class T>
  std::span<T> take(std::size_t count) {
    const std::size_t size = align64(count * sizeof(T));
    const std::span<T> piece(reinterpret_cast<T*>(rest_.data()), count);
    rest_ = rest_.subspan(size);
    return piece;
  }

 private:
  std::span<std::byte> rest_;
};

std::size_t most_groups(const StreamRecord& stream) { return std::max<std::size_t>(1, stream.part_count); }

}  // namespace

EntropyStream::EntropyStream(const StreamRecord& stream, const Parameters& parameters, const LaneStream& lanes,
                             const RopeTable* table)
    : order_(card_order(stream, parameters, lanes, table)),
      group_widths_(planes_groups(stream, parameters)),
      has_scale_(lanes.record.has_scale == 1) {
  for (const std::uint32_t bits : lanes.lanes) {
    lanes_.push_back(kernel::open_lane(bits));
    scales_.push_back(lanes.record.step * kernel::lane_step(lanes_.back().step) * 0x1p-6f);
    bound_ = std::max(bound_, 32768.0 * double{scales_.back()});
  }
  bound_ = order_.bound(bound_);
  const kernel::PlanesShape shape = order_.shape();
  StripPlace place;
  for (std::uint32_t head = 0; head < stream.kv_head_count; ++head) {
    place.head = head;
    std::uint32_t at = 0;
    for (const std::uint32_t width : group_widths_) {
      for (std::uint32_t c = 0; c < width; c += kStripWidth) {
        place.channels = std::min(width - c, kStripWidth);
        place.first = head * stream.head_dim + at + c;
        place.runs = strip_runs(shape, at + c, place.channels);
        strips_.push_back(place);
      }
      at += width;
      ++place.unit;
    }
  }
}

namespace {

/// Multiplier and shift by 16 x (exponent + 8) + scale + 8.
constexpr auto kTokenSteps = [] {
  std::array<kernel::StripToken, 256> steps{};
  for (std::int32_t i = 0; i < 256; ++i) {
    kernel::StripToken& token = steps[static_cast<std::size_t>(i)];
    token.coded = 1;
    token.multiplier = kernel::kMultipliers[static_cast<std::size_t>(i)];
    token.shift = static_cast<std::int8_t>(std::clamp(8 - i / 16 + ((i % 16 - 7) >> 1), -8, 7));
  }
  return steps;
}();

kernel::StripToken coded_token(std::int32_t exponent, std::int32_t scale, std::uint16_t reference) {
  kernel::StripToken token = kTokenSteps[static_cast<std::size_t>(16 * (exponent + 8) + scale + 8)];
  token.distance = static_cast<std::uint16_t>(reference & kMostDistance);
  const std::uint8_t reference_class = (reference & kSecondClass) != 0 ? 2 : 1;
  token.reference = token.distance == 0 ? std::uint8_t{0} : reference_class;
  return token;
}

}  // namespace

kernel::StripToken strip_token(TokenKind kind, std::int32_t exponent, std::int32_t scale, std::uint16_t reference) {
  return kind == TokenKind::kCoded ? coded_token(exponent, scale, reference) : kernel::StripToken{};
}

namespace {

constexpr std::size_t kStripsAtOnce = 2;

/// For the parts of so many strips, each at a multiple of 64 and with padding behind.
std::size_t strip_memory(const FrameHeader& frame) {
  return align64(frame.stored_size) + kStripsAtOnce * align64(4 * kStripWidth + 2 * kernel::kWordPadding + 64);
}

/// Copies a strip's parts, so that they are aligned and readable behind their end.
kernel::Strip copy_strip(const StripBytes& bytes, std::byte* memory, std::size_t& size) {
  std::size_t at = 0;
  const auto copy = [&](std::span<const std::byte> part) {
    std::byte* to = memory + at;
    if (!part.empty()) std::memcpy(to, part.data(), part.size());
    at += part.size();
    return to;
  };
  kernel::Strip strip;
  strip.states = reinterpret_cast<const std::uint32_t*>(copy(bytes.states));
  const auto* keys = reinterpret_cast<const std::uint32_t*>(copy(bytes.escape_keys));
  strip.escape_keys = {keys, bytes.record.escape_count};
  strip.escapes = reinterpret_cast<const std::int16_t*>(copy(bytes.escapes));
  strip.words = reinterpret_cast<const std::uint16_t*>(copy(bytes.words));
  strip.word_count = bytes.record.word_count;
  std::memset(memory + at, 0, 2 * kernel::kWordPadding);
  size = align64(at + 2 * kernel::kWordPadding);
  return strip;
}

}  // namespace

std::size_t entropy_decode_scratch(const StreamRecord& stream, const FrameHeader& frame) {
  const std::size_t tokens = frame.token_count;
  const std::size_t steps = align64(stream.kv_head_count * most_groups(stream) * tokens * sizeof(kernel::StripToken));
  return align64(tokens * most_strips(stream) * kRowBytes) + steps + strip_memory(frame) + 64;
}

Result<EntropyChunk> EntropyChunk::open(const EntropyStream& stream, const EntropyTokens& tokens, const EntropyHead& head,
                                        std::span<const std::uint16_t> references, const FrameHeader& frame,
                                        std::span<std::byte> scratch) {
  const auto corrupt = [&](std::string detail) {
    return Error{ErrorCode::kCorrupt, frame.offset + kFrameHeaderSize, "entropy", std::move(detail)};
  };
  Pieces pieces(scratch);
  EntropyChunk chunk;
  chunk.stream_ = &stream;
  chunk.tokens_ = &tokens;
  chunk.head_ = head;
  const std::size_t units = stream.order().unit_count();
  chunk.rows_ = pieces.take<std::int16_t>(stream.strip_count() * tokens.count() * kStripWidth);
  chunk.steps_ = pieces.take<kernel::StripToken>(units * tokens.count());
  std::vector<std::int8_t>& scales = chunk.scales_;
  if (stream.has_scale() && !decode_scales(head.scales, units, tokens.coded_count, scales)) {
    return corrupt("the vector scales do not decode");
  }
  for (std::size_t u = 0; u < units; ++u) {
    const auto exponents = tokens.of_head(u / stream.group_widths().size());
    const std::int8_t* scale = scales.empty() ? nullptr : scales.data() + u * tokens.coded_count;
    kernel::StripToken* steps = chunk.steps_.data() + u * tokens.count();
    for (std::size_t t = 0; t < tokens.count(); ++t) {
      steps[t] = {};
      if (tokens.kind[t] != TokenKind::kCoded) continue;
      const std::uint16_t reference = references.empty() ? std::uint16_t{0} : references[t];
      steps[t] = coded_token(exponents[t], scale == nullptr ? 0 : scale[tokens.place[t]], reference);
    }
  }
  const auto memory = pieces.take<std::byte>(strip_memory(frame));
  for (std::size_t first = 0; first < head.strips.size(); first += kStripsAtOnce) {
    std::array<kernel::StripTask, kStripsAtOnce> tasks;
    const std::size_t count = std::min(kStripsAtOnce, head.strips.size() - first);
    std::size_t at = 0;
    for (std::size_t i = 0; i < count; ++i) {
      const EntropyStream::StripPlace& place = stream.strips()[first + i];
      kernel::StripTask& task = tasks[i];
      std::size_t size = 0;
      task.strip = copy_strip(head.strips[first + i], memory.data() + at, size);
      at += size;
      task.strip.channels = place.channels;
      task.strip.lanes = stream.lanes().data() + place.first;
      task.tokens = chunk.steps_.subspan(place.unit * tokens.count(), tokens.count());
      task.rows = chunk.rows_.data() + (first + i) * tokens.count() * kStripWidth;
      const auto keys = task.strip.escape_keys;
      if (std::adjacent_find(keys.begin(), keys.end(), std::greater_equal<>()) != keys.end()) {
        return corrupt("strip " + std::to_string(first + i) + ": the keys of its escapes do not ascend");
      }
    }
    kernel::entropy_kernels().decode_strips(std::span(tasks).first(count));
    for (std::size_t i = 0; i < count; ++i) {
      if (tasks[i].outcome == kernel::StripOutcome::kWhole) continue;
      return corrupt("strip " + std::to_string(first + i) + ": " + std::string(kernel::name_of(tasks[i].outcome)));
    }
  }
  return chunk;
}

void EntropyChunk::put(std::size_t first, std::size_t count, const kernel::RowTarget& target, std::int64_t row_stride,
                       const float* angles) const {
  for (std::size_t t = first; t < first + count;) {
    kernel::RowTarget at = target;
    at.base += static_cast<std::int64_t>(t - first) * row_stride;
    std::size_t run = 1;
    if (tokens_->kind[t] == TokenKind::kExact) {
      copy_exact(t, at);
    } else if (tokens_->kind[t] == TokenKind::kFine) {
      put_fine(t, at, angles);
    } else {
      while (t + run < first + count && tokens_->kind[t + run] == TokenKind::kCoded) ++run;
      put_coded(t, run, at, row_stride, angles);
    }
    t += run;
  }
}

void EntropyChunk::put_coded(std::size_t first, std::size_t count, const kernel::RowTarget& target,
                             std::int64_t row_stride, const float* angles) const {
  const std::size_t angle_stride = 2 * stream_->order().pair_count();
  for (std::size_t s = 0; s < stream_->strip_count(); ++s) {
    const EntropyStream::StripPlace& place = stream_->strips()[s];
    kernel::StripOutput out;
    out.rows = rows_.data() + (s * tokens_->count() + first) * kStripWidth;
    out.scale = stream_->scales().data() + place.first;
    out.mean = stream_->order().mean() == nullptr ? nullptr : stream_->order().mean() + place.first;
    out.angles = angles == nullptr ? nullptr : angles + first * angle_stride;
    out.angle_stride = angle_stride;
    out.runs = place.runs;
    kernel::entropy_kernels().put_strip(out, count, target.base + static_cast<std::int64_t>(place.head) * target.head_stride,
                                        row_stride, target.dtype);
  }
}

/// An i8 row is a row whose lanes all have the vector's scale as theirs, and no mean.
void EntropyChunk::put_fine(std::size_t token, const kernel::RowTarget& target, const float* angles) const {
  const std::size_t elements = stream_->order().element_count();
  const std::size_t units = stream_->order().unit_count();
  const std::size_t angle_stride = 2 * stream_->order().pair_count();
  const auto bytes = head_.fine_rows.subspan(tokens_->place[token] * (4 * units + elements), 4 * units + elements);
  const std::byte* values = bytes.data() + 4 * units;
  for (const EntropyStream::StripPlace& place : stream_->strips()) {
    std::array<std::int16_t, kStripWidth> row{};
    std::array<float, kStripWidth> scale{};
    float of_unit;
    std::memcpy(&of_unit, bytes.data() + 4 * place.unit, sizeof(of_unit));
    for (std::uint32_t c = 0; c < place.channels; ++c) row[c] = static_cast<std::int8_t>(values[place.first + c]);
    scale.fill(of_unit);
    kernel::StripOutput out;
    out.rows = row.data();
    out.scale = scale.data();
    out.angles = angles == nullptr ? nullptr : angles + token * angle_stride;
    out.angle_stride = angle_stride;
    out.runs = place.runs;
    kernel::entropy_kernels().put_strip(out, 1, target.base + static_cast<std::int64_t>(place.head) * target.head_stride, 0,
                                        target.dtype);
  }
}

void EntropyChunk::copy_exact(std::size_t token, const kernel::RowTarget& target) const {
  const std::uint32_t heads = stream_->order().shape().head_count;
  const std::size_t row_size = stream_->order().row_size();
  const std::byte* row = head_.exact_rows.data() + tokens_->place[token] * row_size;
  const std::size_t size = row_size / heads;
  for (std::uint32_t h = 0; h < heads; ++h) {
    std::memcpy(target.base + static_cast<std::int64_t>(h) * target.head_stride, row + h * size, size);
  }
}

void EntropyChunk::add_squared_bounds(std::span<double> bounds) const {
  const std::size_t units = stream_->order().unit_count();
  const std::size_t fine_size = 4 * units + stream_->order().element_count();
  for (const EntropyStream::StripPlace& place : stream_->strips()) {
    double lanes = 0.0;
    for (std::uint32_t c = 0; c < place.channels; ++c) {
      const double step = 64.0 * double{stream_->scales()[place.first + c]};
      lanes += step * step;
    }
    for (std::size_t t = 0; t < tokens_->count(); ++t) {
      if (tokens_->kind[t] == TokenKind::kExact) continue;
      if (tokens_->kind[t] == TokenKind::kFine) {
        float scale;
        std::memcpy(&scale, head_.fine_rows.data() + tokens_->place[t] * fine_size + 4 * place.unit, sizeof(scale));
        bounds[t] += 0.25 * double{scale} * double{scale} * place.channels;
        continue;
      }
      // Half a token step, and half a unit of the row's fixed point.
      const double half = (double{static_cast<double>(steps_[place.unit * tokens_->count() + t].multiplier)} / 512.0 + 1.0 / 64) / 2;
      bounds[t] += half * half * lanes;
    }
  }
}

}  // namespace cachecard
