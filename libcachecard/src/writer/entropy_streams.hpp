#pragma once

#include <span>
#include <vector>

#include "codec/entropy_codec.hpp"

/// Streams as EntropyPlan sees them before their lanes are known.
namespace cachecard {

inline LaneStream no_lanes(const StreamRecord& stream, std::vector<std::uint16_t> means) {
  LaneStream lanes;
  lanes.record.layer = stream.layer;
  lanes.record.stream = stream.stream;
  lanes.record.lane_count = static_cast<std::uint32_t>(row_elements(stream));
  lanes.record.has_mean = means.empty() ? 0 : 1;
  lanes.means = std::move(means);
  return lanes;
}

/// The stream in card order, with or without its means.
inline PlanesStream order_of(const StreamRecord& stream, Parameters parameters, std::span<const std::uint16_t> means,
                      const RopeTable* table) {
  const auto bytes = std::as_bytes(means);
  parameters.data.assign(bytes.begin(), bytes.end());
  parameters.record.data_size = parameters.data.size();
  return PlanesStream(stream, parameters, table);
}

/// Of a lane's step, over its channel's root mean square: rows then reach ten times that. A value beyond makes its whole token exact.
inline constexpr float kLeastRelative = 1.0f / 48.0f;

/// 2^octaves.
double octave_step(double octaves);

}  // namespace cachecard
