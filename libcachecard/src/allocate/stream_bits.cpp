#include <algorithm>
#include <cmath>
#include <string>

#include "cachecard/allocate.hpp"

namespace cachecard {
namespace {

Error argument_error(std::string detail) {
  return {ErrorCode::kInvalidArgument, kNoOffset, "allocate", std::move(detail)};
}

Status check(std::span<const StreamWeight> streams, double mean_bits, std::uint8_t most) {
  for (std::size_t i = 0; i < streams.size(); ++i) {
    const double found = streams[i].sensitivity;
    if (std::isfinite(found) && found >= 0.0) continue;
    return argument_error("stream " + std::to_string(i) + ": found a sensitivity of " + std::to_string(found) +
                          ", allowed are finite ones from 0 on");
  }
  if (most < 1 || most > 8) return argument_error("found " + std::to_string(most) + " bits at most, allowed 1 to 8");
  if (mean_bits >= 1.0 && mean_bits <= 8.0) return {};
  return argument_error("found " + std::to_string(mean_bits) + " bits a value, allowed 1 to 8");
}

/// What one more bit takes off the predicted error, for each of the stream's values.
double gain(const StreamWeight& stream, std::uint8_t bits) {
  return stream.sensitivity * std::ldexp(0.75, -2 * bits) / static_cast<double>(stream.value_count);
}

}  // namespace

Result<std::vector<std::uint8_t>> allocate_bits(std::span<const StreamWeight> streams, double mean_bits,
                                                std::uint8_t most) {
  if (Status s = check(streams, mean_bits, most); !s) return s.error();
  double total = 0.0;
  for (const StreamWeight& stream : streams) total += static_cast<double>(stream.value_count);
  if (!(total > 0.0)) return argument_error("there are no values");
  const auto least = static_cast<std::uint8_t>(mean_bits < 2.0 || most < 2 ? 1 : 2);
  std::vector<std::uint8_t> bits(streams.size(), least);
  // A little over: 3.5 bits of 60 streams are 210, whatever their product rounds to.
  double left = total * (mean_bits - least) * (1.0 + 1e-12);
  for (;;) {
    std::size_t best = streams.size();
    for (std::size_t i = 0; i < streams.size(); ++i) {
      const bool takes = streams[i].value_count > 0 && bits[i] < most && static_cast<double>(streams[i].value_count) <= left;
      if (takes && (best == streams.size() || gain(streams[i], bits[i]) > gain(streams[best], bits[best]))) best = i;
    }
    if (best == streams.size()) return bits;
    left -= static_cast<double>(streams[best].value_count);
    ++bits[best];
  }
}

Status share_layer_bits(const CardHeader& header, std::span<const double> costs, PlanesOptions& planes) {
  if (costs.size() != header.streams.size()) {
    return argument_error("found costs of " + std::to_string(costs.size()) + " streams, the card has " +
                          std::to_string(header.streams.size()));
  }
  const auto is_value = [](const StreamRecord& stream) { return stream.stream == static_cast<std::uint8_t>(StreamKind::kValue); };
  std::vector<StreamWeight> weights;
  double bits = 0.0;
  double values = 0.0;
  for (std::size_t s = 0; s < header.streams.size(); ++s) {
    const StreamRecord& stream = header.streams[s];
    const bool opaque = stream.stream == static_cast<std::uint8_t>(StreamKind::kOpaque);
    const std::uint64_t count = opaque ? 0 : stream.token_count * row_elements(stream);
    weights.push_back({costs[s], count});
    bits += static_cast<double>(count) * (is_value(stream) ? planes.value_bits : planes.key_bits);
    values += static_cast<double>(count);
  }
  if (values == 0.0) return {};
  const bool newest = planes.newest_tokens != 0;
  const double share = static_cast<double>(std::min(planes.newest_tokens, header.token_count)) /
                       static_cast<double>(std::max<std::uint64_t>(header.token_count, 1));
  const double mean = std::max(bits / values - share, 1.0);
  // Room for the newest tokens' bit, unless all bits are wanted.
  auto shared = allocate_bits(weights, mean, newest && mean <= 7.0 ? 7 : 8);
  if (!shared) return shared.error();
  planes.layer_bits.assign(header.layer_count, {planes.key_bits, planes.value_bits});
  for (std::size_t i = 0; i < weights.size(); ++i) {
    if (weights[i].value_count == 0) continue;
    TokenBits& layer = planes.layer_bits[header.streams[i].layer];
    (is_value(header.streams[i]) ? layer.value : layer.key) = (*shared)[i];
  }
  return {};
}

}  // namespace cachecard
