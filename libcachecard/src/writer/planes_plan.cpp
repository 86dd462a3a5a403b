#include "writer/planes_plan.hpp"

#include <algorithm>

#include "codec/magnitudes.hpp"
#include "kernel/ggml_blocks.hpp"
#include "writer/card_order.hpp"

namespace cachecard {
namespace {

Error option_error(std::string detail) { return {ErrorCode::kInvalidArgument, kNoOffset, "planes", std::move(detail)}; }

/// How far the bits of tokens go below and above those of the card.
struct Reach {
  int least = 0;
  int most = 0;
};

template <class Bits>
Reach reach_of(const PlanesOptions& planes, int base, Bits bits_of) {
  Reach reach;
  for (const TokenBits& token : planes.token_bits) {
    if (bits_of(token) == 0) continue;
    reach.least = std::min(reach.least, bits_of(token) - base);
    reach.most = std::max(reach.most, bits_of(token) - base);
  }
  return reach;
}

constexpr std::uint8_t kSinkBits = 3;  ///< more would hardly be seen: tests/fidelity/RESULTS.md

bool in_range(std::uint8_t bits, std::uint8_t least) { return bits >= least && bits <= kMostBits; }

}  // namespace

std::uint32_t planes_hadamard(std::span<const std::uint32_t> group_widths) {
  std::uint32_t n = kLargestPlanesHadamard;
  for (const std::uint32_t width : group_widths) {
    while (width % n != 0) n /= 2;
  }
  return n;
}

Status PlanesPlan::check_options() const {
  const PlanesOptions& planes = *options_.planes;
  if (!in_range(planes.key_bits, 1) || !in_range(planes.value_bits, 1)) {
    return option_error("found " + std::to_string(planes.key_bits) + " and " + std::to_string(planes.value_bits) +
                        " bits, allowed 1 to 8");
  }
  if (!planes.layer_bits.empty() && planes.layer_bits.size() != header_.layer_count) {
    return option_error("found bits of " + std::to_string(planes.layer_bits.size()) + " layers, allowed " +
                        std::to_string(header_.layer_count));
  }
  for (const TokenBits& bits : planes.layer_bits) {
    if (!in_range(bits.key, 1) || !in_range(bits.value, 1)) return option_error("bits of a layer are 1 to 8");
  }
  if (planes.token_bits.empty()) return {};
  if (planes.token_bits.size() != header_.token_count) {
    return option_error("found bits of " + std::to_string(planes.token_bits.size()) + " tokens, allowed " +
                        std::to_string(header_.token_count));
  }
  for (std::size_t t = 0; t < planes.token_bits.size(); ++t) {
    if (in_range(planes.token_bits[t].key, 0) && in_range(planes.token_bits[t].value, 0)) continue;
    return option_error("token " + std::to_string(t) + ": found " + std::to_string(planes.token_bits[t].key) + " and " +
                        std::to_string(planes.token_bits[t].value) + " bits, allowed 1 to 8, or 0 for exact");
  }
  return check_sums();
}

/// A token's bits stand for what they are above or below the card's, in every layer.
Status PlanesPlan::check_sums() const {
  const PlanesOptions& planes = *options_.planes;
  const Reach key = reach_of(planes, planes.key_bits, [](const TokenBits& bits) { return int{bits.key}; });
  const Reach value = reach_of(planes, planes.value_bits, [](const TokenBits& bits) { return int{bits.value}; });
  for (std::size_t layer = 0; layer < planes.layer_bits.size(); ++layer) {
    const TokenBits& bits = planes.layer_bits[layer];
    const int least = std::min(bits.key + key.least, bits.value + value.least);
    const int most = std::max(bits.key + key.most, bits.value + value.most);
    if (least >= 1 && most <= int{kMostBits}) continue;
    return option_error("layer " + std::to_string(layer) + ": the bits of tokens come to " + std::to_string(least) +
                        " to " + std::to_string(most) + " there, allowed 1 to 8");
  }
  return {};
}


bool PlanesPlan::codes(std::size_t stream) const { return is_float_stream(header_.streams[stream]); }

/// So many more than the card's, as far as every layer has room for it.
TokenBits PlanesPlan::wider_bits(std::uint8_t by) const {
  const PlanesOptions& planes = *options_.planes;
  TokenBits most{planes.key_bits, planes.value_bits};
  for (const TokenBits& bits : planes.layer_bits) {
    most = {std::max(most.key, bits.key), std::max(most.value, bits.value)};
  }
  const auto more = [by](std::uint8_t bits, std::uint8_t largest) {
    return static_cast<std::uint8_t>(bits + std::min<int>(by, kMostBits - largest));
  };
  return {more(planes.key_bits, most.key), more(planes.value_bits, most.value)};
}

BitWidthMap PlanesPlan::map(std::uint32_t segment) const {
  const PlanesOptions& planes = *options_.planes;
  const SegmentRecord& record = header_.segments[segment];
  BitWidthMap map = uniform_map(header_, record.token_count);
  // Rows: 0 for streams that are not coded, 1 for keys and latents, 2 for values.
  map.rows.assign(3 * record.token_count, 0);
  const TokenBits newest = wider_bits(1);
  const TokenBits sink = wider_bits(kSinkBits);
  for (std::uint64_t t = 0; t < record.token_count; ++t) {
    const std::uint64_t token = record.first_token + t;
    TokenBits bits{planes.key_bits, planes.value_bits};
    if (!planes.token_bits.empty()) {
      bits = planes.token_bits[token];
    } else if (token < planes.exact_tokens) {
      bits = {};
    } else if (std::binary_search(planes.sinks.begin(), planes.sinks.end(), token)) {
      bits = sink;
    } else if (header_.token_count - token <= planes.newest_tokens) {
      bits = newest;
    }
    const auto offset = [](std::uint8_t wanted, std::uint8_t base) {
      return wanted == 0 ? kOffsetExact : static_cast<std::int8_t>(2 * (int{wanted} - int{base}));
    };
    map.rows[record.token_count + t] = offset(bits.key, planes.key_bits);
    map.rows[2 * record.token_count + t] = offset(bits.value, planes.value_bits);
  }
  for (std::size_t s = 0; s < header_.streams.size(); ++s) {
    if (!codes(s)) continue;
    const bool value = is_value_stream(header_.streams[s]);
    const std::uint16_t row = record.token_count == 0 ? 0 : value ? 2 : 1;  // without tokens there are no rows
    TokenBits bits{planes.key_bits, planes.value_bits};
    if (!planes.layer_bits.empty()) bits = planes.layer_bits[header_.streams[s].layer];
    map.base[s] = static_cast<std::uint8_t>(2 * (value ? bits.value : bits.key));
    const std::size_t first = BitWidthMap::first_use(header_, s);
    const std::size_t end = BitWidthMap::first_use(header_, s + 1);
    std::fill(map.row_of.begin() + static_cast<std::ptrdiff_t>(first),
              map.row_of.begin() + static_cast<std::ptrdiff_t>(end), row);
  }
  return map;
}

std::shared_ptr<const Angles> PlanesPlan::angles(const PlanesStream& stream, std::uint64_t first, std::uint64_t count) {
  if (!stream.rope_removed()) return nullptr;
  return angles_.get({rope_table_digest_, first, count}, *source_.rope_table(), source_.positions().subspan(first, count));
}

Status PlanesPlan::learn(std::size_t index, std::uint32_t segment, Parameters& parameters) {
  const StreamRecord& stream = header_.streams[index];
  const SegmentRecord& record = header_.segments[segment];
  const PlanesStream plain(stream, parameters, source_.rope_table());
  PlanesStatistics statistics(plain);
  const std::uint64_t first = std::max(record.first_token, stream.first_token);
  const std::uint64_t end = std::min(record.first_token + record.token_count, stream.first_token + stream.token_count);
  if (first < end) {
    const auto row = map_.row(map_.row_of[BitWidthMap::first_use(header_, index)]);
    std::vector<std::byte> rows;
    for (const TokenSpan& span : plan_chunks(first, end - first, plain.row_size(), options_.chunk_tokens, options_.limits)) {
      rows.resize(span.token_count * plain.row_size());
      if (Status s = source_.read_rows(index, span.first_token, span.token_count, rows); !s) return s;
      std::vector<std::uint8_t> coded;
      for (const std::int8_t offset : row.subspan(span.first_token - record.first_token, span.token_count)) {
        coded.push_back(offset == kOffsetExact ? 0 : 1);
      }
      const auto turned = angles(plain, span.first_token, span.token_count);
      statistics.add(rows, coded, turned == nullptr ? nullptr : turned->data());
    }
  }
  parameters.data = statistics.means();
  parameters.record.data_size = parameters.data.size();
  const std::uint32_t n = planes_hadamard(planes_groups(stream, parameters));
  parameters.record.hadamard_size = statistics.rotation_helps(parameters.data, n) ? n : 1;
  return {};
}

Result<std::vector<std::optional<Parameters>>> PlanesPlan::prepare(std::uint32_t segment,
                                                                   std::uint64_t rope_table_digest,
                                                                   std::uint64_t positions_digest) {
  rope_table_digest_ = rope_table_digest;
  positions_digest_ = positions_digest;
  map_ = map(segment);
  struct Job {
    PlanesPlan& plan;
    std::uint32_t segment;
    std::vector<std::optional<Parameters>> parameters;
    std::vector<Status> statuses;
  } job{*this, segment, {}, std::vector<Status>(header_.streams.size())};
  for (std::size_t s = 0; s < header_.streams.size(); ++s) {
    job.parameters.emplace_back(codes(s) ? std::optional(card_order_parameters(source_, header_, header_.streams[s], Codec::kPlanes, rope_table_digest_,
                                              positions_digest_)) : std::nullopt);
  }
  options_.parallel(
      header_.streams.size(),
      [](void* context, std::size_t s) {
        auto& j = *static_cast<Job*>(context);
        if (j.parameters[s]) j.statuses[s] = j.plan.learn(s, j.segment, *j.parameters[s]);
      },
      &job);
  streams_.clear();
  for (std::size_t s = 0; s < header_.streams.size(); ++s) {
    if (!job.statuses[s]) return job.statuses[s].error();
    if (job.parameters[s]) streams_.emplace(s, PlanesStream(header_.streams[s], *job.parameters[s], source_.rope_table()));
  }
  return std::move(job.parameters);
}

PlanesEncoded PlanesPlan::encode(std::size_t stream, const FrameHeader& frame, std::span<const std::byte> rows) {
  const PlanesStream& opened = streams_.at(stream);
  const auto tokens = planes_tokens(header_, map_, frame);
  const auto turned = angles(opened, frame.first_token, frame.token_count);
  const float* const pairs = turned == nullptr ? nullptr : turned->data();
  PlanesEncoded encoded = encode_planes(opened, *tokens, rows, pairs);
  // Of finite values only RoPE's and the rotation's own sums were too large.
  if (encoded.outcome == PlanesOutcome::kNonFinite && count_nonfinite(opened.dtype(), rows) == 0) {
    encoded.outcome = PlanesOutcome::kOutOfReach;
  }
  if (encoded.outcome == PlanesOutcome::kCoded && !(encoded.bound <= safe_magnitude(opened.dtype())) &&
      !decodes_finite(header_.streams[stream], frame, opened, *tokens, pairs, encoded)) {
    encoded.outcome = PlanesOutcome::kOutOfReach;
  }
  return encoded;
}

}  // namespace cachecard
