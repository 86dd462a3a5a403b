#include "codec/planes_codec.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/bytes.hpp"
#include "cachecard/digest.hpp"
#include "codec/planes_error.hpp"
#include "kernel/floats.hpp"
#include "kernel/planes_tables.hpp"

namespace cachecard {
namespace {

constexpr std::int32_t kReach = 254;  ///< sixteenths of an octave below a chunk's top

/// kernel::planes_step(kernel::planes_range(k), width, n) by exponents: ranges are normal numbers, and so are their parts.
float step_of(const PlanesHead& head, std::size_t place, std::size_t unit, std::uint32_t width, float rotation_scale) {
  const auto scale = static_cast<std::int32_t>(head.scale[place * head.unit_count + unit]);
  if (scale == 0) return 0.0f;
  const std::int32_t k = head.top[unit] + scale - 255;
  const auto mantissa = std::bit_cast<std::int32_t>(kernel::kSixteenthOctaves[static_cast<std::size_t>(k & 15)]);
  return std::bit_cast<float>(mantissa + (((k >> 4) - static_cast<std::int32_t>(width)) << 23)) * rotation_scale;
}

}  // namespace

PlanesStream::PlanesStream(const StreamRecord& stream, const Parameters& parameters, const RopeTable* table)
    : group_widths_(planes_groups(stream, parameters)),
      dtype_(static_cast<DType>(stream.dtype)),
      row_size_(row_bytes(stream, static_cast<DType>(stream.dtype))),
      head_count_(stream.kv_head_count),
      head_dim_(stream.head_dim),
      hadamard_size_(parameters.record.hadamard_size),
      rotation_scale_(1.0f / std::sqrt(static_cast<float>(parameters.record.hadamard_size))) {
  for (const std::uint16_t mean : load_numbers<std::uint16_t>(parameters.data)) {
    mean_.push_back(kernel::f32_from_f16(mean));
  }
  if (parameters.record.rope_removed == 0) return;
  pairing_ = static_cast<RopePairing>(table->record.pairing);
  rotated_offset_ = table->record.rotated_offset;
  rotated_width_ = table->record.rotated_width;
  unrotate_gain_ = static_cast<float>(1.0 / (table->record.magnitude * table->record.magnitude));
  constexpr double kTurned = 1.4143;  // |x c - y s| over the larger of |x| and |y|, rounding included
  const double magnitude = std::abs(table->record.magnitude);
  rope_bound_ = std::max(1.0, kTurned * magnitude);
  unrope_bound_ = std::max(1.0, kTurned / magnitude);
}

double PlanesStream::bound(double largest) const {
  double mean = 0.0;
  for (const float m : mean_) mean = std::max(mean, std::abs(double{m}));
  return (largest * std::sqrt(static_cast<double>(hadamard_size_)) + mean) * rope_bound_;
}

kernel::PlanesShape PlanesStream::shape() const {
  return {head_count_, head_dim_, hadamard_size_, group_widths_, pairing_, rotated_offset_, rotated_width_};
}

std::size_t planes_decode_scratch(const PlanesStream& stream) {
  return kPlanesRunRows * stream.unit_count() + stream.shape().head_dim;
}

/// How many tokens from `token` on lie one behind the other in the planes, with the same planes; 1 for an exact one.
std::size_t PlanesChunk::run_of(std::size_t token, std::size_t end) const {
  const std::size_t most = std::min(end - token, kPlanesRunRows);
  std::size_t count = 1;
  while (count < most && tokens.coded_width[token + count] == tokens.coded_width[token] &&
         tokens.place[token + count] == tokens.place[token] + count) {
    ++count;
  }
  return tokens.coded_width[token] == 0 ? 1 : count;
}

void PlanesChunk::copy_exact(std::size_t token, const kernel::RowTarget& target) const {
  const std::uint32_t heads = stream.shape().head_count;
  const std::byte* row = head.exact_rows.data() + tokens.place[token] * stream.row_size();
  const std::size_t size = stream.row_size() / heads;
  for (std::uint32_t h = 0; h < heads; ++h) {
    std::memcpy(target.base + static_cast<std::int64_t>(h) * target.head_stride, row + h * size, size);
  }
}

void PlanesChunk::decode(std::size_t first, std::size_t count, const kernel::RowTarget& target, std::int64_t row_stride,
                         std::span<float> scratch) const {
  const kernel::PlanesShape shape = stream.shape();
  const std::size_t row_bytes = shape.plane_row_bytes();
  float* const steps = scratch.data();
  kernel::RowTarget at = target;
  for (std::size_t token = first; token < first + count;) {
    const std::size_t run = run_of(token, first + count);
    if (tokens.coded_width[token] == 0) {
      copy_exact(token, at);
    } else {
      const std::size_t place = tokens.place[token];
      kernel::PlanesRow row;
      row.width = tokens.present_width(token);
      for (std::uint32_t p = 0; p < row.width; ++p) {
        row.planes[p] = payload.data() + head.plane_offset[p] + place * row_bytes;
      }
      for (std::size_t i = 0; i < run; ++i) {
        for (std::size_t u = 0; u < head.unit_count; ++u) {
          steps[i * head.unit_count + u] = step_of(head, place + i, u, row.width, stream.rotation_scale());
        }
      }
      row.steps = steps;
      row.mean = stream.mean();
      row.angles = angles == nullptr ? nullptr : angles + token * 2 * stream.pair_count();
      kernel::planes_kernels().decode_rows(shape, row, run, at, row_stride, steps + kPlanesRunRows * head.unit_count);
    }
    token += run;
    at.base += static_cast<std::int64_t>(run) * row_stride;
  }
}

namespace {

double bound_of(const PlanesStream& stream, std::span<const std::int16_t> tops) {
  std::int32_t top = kernel::kLeastRange;
  for (const std::int16_t t : tops) top = std::max<std::int32_t>(top, t);
  return stream.bound(std::exp2(top / 16.0));
}

}  // namespace

double PlanesChunk::bound() const { return bound_of(stream, head.top); }

void PlanesChunk::add_squared_bounds(std::span<double> bounds) const {
  const kernel::PlanesShape shape = stream.shape();
  for (const std::uint32_t token : tokens.order) {
    const std::size_t place = tokens.place[token];
    for (std::size_t u = 0; u < head.unit_count; ++u) {
      const double half_step = double{step_of(head, place, u, tokens.present_width(token), 1.0f)};
      bounds[token] += half_step * half_step * shape.group_widths[u % shape.group_widths.size()];
    }
  }
}

namespace {

/// Fills the head: everything but the planes, whose bytes stand in the payload already.
std::uint64_t write_head(std::span<std::byte> payload, const PlanesTokens& tokens, std::span<const std::int16_t> top,
                         std::span<const std::byte> scale, std::span<const std::byte> exact_rows,
                         std::size_t row_size, std::size_t plane_row) {
  const PlanesHeadSizes sizes =
      planes_head_sizes(top.size(), tokens.coded_count, tokens.exact_count, row_size, tokens.plane_count);
  PlanesRecord record;
  record.plane_count = tokens.plane_count;
  record.exact_count = tokens.exact_count;
  record.coded_count = tokens.coded_count;
  store(record, payload);
  std::memcpy(payload.data() + encoded_size<PlanesRecord>(), top.data(), top.size_bytes());
  std::copy(scale.begin(), scale.end(), payload.begin() + static_cast<std::ptrdiff_t>(sizes.scale_offset));
  std::copy(exact_rows.begin(), exact_rows.end(), payload.begin() + static_cast<std::ptrdiff_t>(sizes.exact_offset));
  std::uint64_t at = sizes.size;
  for (std::uint32_t p = 0; p < tokens.plane_count; ++p) {
    PlaneRecord plane;
    plane.size = tokens.longer[p] * plane_row;
    plane.digest = digest64(payload.subspan(at, plane.size));
    store(plane, payload.subspan(sizes.table_offset + p * encoded_size<PlaneRecord>()));
    at += plane.size;
  }
  return sizes.size;
}

std::uint64_t payload_size(const PlanesTokens& tokens, std::size_t units, std::size_t row_size, std::size_t plane_row) {
  std::uint64_t size =
      planes_head_sizes(units, tokens.coded_count, tokens.exact_count, row_size, tokens.plane_count).size;
  for (std::uint32_t p = 0; p < tokens.plane_count; ++p) size += tokens.longer[p] * plane_row;
  return size;
}

/// Where each plane begins in a payload that is being made.
std::array<std::byte*, kMostBits> plane_bases(std::span<std::byte> payload, const PlanesTokens& tokens,
                                              std::uint64_t head_size, std::size_t plane_row) {
  std::array<std::byte*, kMostBits> bases{};
  std::uint64_t at = head_size;
  for (std::uint32_t p = 0; p < tokens.plane_count; ++p) {
    bases[p] = payload.data() + at;
    at += tokens.longer[p] * plane_row;
  }
  return bases;
}

/// Each unit's largest range of the chunk, and every range as a distance below it. False where one is too far below.
bool make_scales(std::span<const std::int16_t> ranges, std::span<std::int16_t> top, std::span<std::byte> scale) {
  const std::size_t units = top.size();
  std::fill(top.begin(), top.end(), std::int16_t{INT16_MIN});
  for (std::size_t i = 0; i < ranges.size(); ++i) top[i % units] = std::max(top[i % units], ranges[i]);
  for (std::int16_t& t : top) t = t == kernel::kZeroRange ? std::int16_t{0} : std::max(t, kLeastTop);
  for (std::size_t i = 0; i < ranges.size(); ++i) {
    if (ranges[i] == kernel::kZeroRange) {
      scale[i] = std::byte{0};
      continue;
    }
    const std::int32_t below = top[i % units] - ranges[i];
    if (below > kReach) return false;
    scale[i] = static_cast<std::byte>(255 - below);
  }
  return true;
}

}  // namespace

PlanesEncoded encode_planes(const PlanesStream& stream, const PlanesTokens& tokens, std::span<const std::byte> rows,
                            const float* angles) {
  const kernel::PlanesShape shape = stream.shape();
  const std::size_t plane_row = shape.plane_row_bytes();
  const std::size_t units = stream.unit_count();
  PlanesEncoded out;
  out.payload.resize(payload_size(tokens, units, stream.row_size(), plane_row));
  out.digest_size =
      planes_head_sizes(units, tokens.coded_count, tokens.exact_count, stream.row_size(), tokens.plane_count).size;
  const auto bases = plane_bases(out.payload, tokens, out.digest_size, plane_row);
  std::vector<std::int16_t> ranges(tokens.coded_count * units);
  std::vector<std::byte> exact_rows;
  std::vector<float> scratch(shape.elements());
  for (std::size_t t = 0; t < tokens.coded_width.size(); ++t) {
    const auto row = rows.subspan(t * stream.row_size(), stream.row_size());
    const std::uint32_t width = tokens.coded_width[t];
    if (width == 0) {
      exact_rows.insert(exact_rows.end(), row.begin(), row.end());
      continue;
    }
    std::array<std::byte*, kMostBits> planes{};
    for (std::uint32_t p = 0; p < width; ++p) planes[p] = bases[p] + tokens.place[t] * plane_row;
    const kernel::PlanesInput input{row.data(), stream.dtype(), stream.mean(),
                                    angles == nullptr ? nullptr : angles + t * 2 * stream.pair_count(),
                                    stream.unrotate_gain()};
    const auto outcome = kernel::planes_kernels().encode_row(shape, input, width, planes,
                                                             ranges.data() + tokens.place[t] * units, scratch.data());
    if (outcome == kernel::RowOutcome::kCoded) continue;
    out.outcome = outcome == kernel::RowOutcome::kNonFinite ? PlanesOutcome::kNonFinite : PlanesOutcome::kOutOfReach;
    out.token = t;
    return out;
  }
  std::vector<std::int16_t> top(units);
  std::vector<std::byte> scale(ranges.size());
  if (!make_scales(ranges, top, scale)) {
    out.outcome = PlanesOutcome::kOutOfReach;
    return out;
  }
  write_head(out.payload, tokens, top, scale, exact_rows, stream.row_size(), plane_row);
  out.bound = bound_of(stream, top);
  if (worse_than_q8_0(stream, tokens, rows, top, scale)) out.outcome = PlanesOutcome::kWorse;
  return out;
}

bool decodes_finite(const StreamRecord& record, FrameHeader frame, const PlanesStream& stream, const PlanesTokens& tokens,
                    const float* angles, const PlanesEncoded& encoded) {
  frame.stored_size = encoded.payload.size();
  frame.digest_size = encoded.digest_size;
  const auto head = parse_planes_head(record, frame, tokens, stream.unit_count(),
                                      std::span(encoded.payload).first(encoded.digest_size));
  if (!head) return false;
  std::vector<float> scratch(planes_decode_scratch(stream));
  std::vector<std::byte> row(stream.row_size());
  const auto head_stride = static_cast<std::int64_t>(row.size() / stream.shape().head_count);
  PlanesTokens left = tokens;
  for (; left.plane_count > 0; --left.plane_count) {
    const PlanesChunk chunk{stream, left, *head, encoded.payload, angles};
    for (const std::uint32_t token : tokens.order) {
      chunk.decode(token, 1, {row.data(), head_stride, stream.dtype()}, 0, scratch);
      if (count_nonfinite(stream.dtype(), row) > 0) return false;
    }
  }
  return true;
}

std::vector<std::byte> cut_planes(const PlanesChunk& chunk, std::size_t first, const PlanesTokens& kept,
                                  std::uint64_t& digest_size) {
  const std::size_t plane_row = chunk.stream.shape().plane_row_bytes();
  const std::size_t row_size = chunk.stream.row_size();
  const std::size_t units = chunk.stream.unit_count();
  std::vector<std::byte> payload(payload_size(kept, units, row_size, plane_row));
  std::vector<std::byte> scale(kept.coded_count * units);
  std::vector<std::byte> exact_rows(kept.exact_count * row_size);
  digest_size = planes_head_sizes(units, kept.coded_count, kept.exact_count, row_size, kept.plane_count).size;
  const auto bases = plane_bases(payload, kept, digest_size, plane_row);
  for (std::size_t t = 0; t < kept.coded_width.size(); ++t) {
    const std::size_t from = chunk.tokens.place[first + t];
    const std::size_t to = kept.place[t];
    if (kept.coded_width[t] == 0) {
      std::memcpy(exact_rows.data() + to * row_size, chunk.head.exact_rows.data() + from * row_size, row_size);
      continue;
    }
    std::memcpy(scale.data() + to * units, chunk.head.scale.data() + from * units, units);
    for (std::uint32_t p = 0; p < kept.present_width(t); ++p) {
      std::memcpy(bases[p] + to * plane_row, chunk.payload.data() + chunk.head.plane_offset[p] + from * plane_row,
                  plane_row);
    }
  }
  write_head(payload, kept, chunk.head.top, scale, exact_rows, row_size, plane_row);
  return payload;
}

}  // namespace cachecard
