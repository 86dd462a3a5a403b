#include <algorithm>
#include <array>
#include <cmath>

#include "base/bytes.hpp"
#include "cachecard/profile.hpp"
#include "format/record_check.hpp"
#include "kernel/floats.hpp"

namespace cachecard {
namespace {

constexpr std::uint32_t kMostHeads = 1u << 12;
constexpr std::uint32_t kMostDim = 1u << 12;
constexpr std::uint32_t kMostRank = 1u << 12;
constexpr std::uint32_t kMostCentroids = 1u << 10;
constexpr float kMostCode = 127.0f;
constexpr float kWholeWeight = 65535.0f;

Error profile_error(ErrorCode code, std::string detail) {
  return {code, kNoOffset, "model_profile", std::move(detail)};
}

/// Sizes of the arrays behind the record, in their order, in bytes.
struct Sizes {
  std::uint64_t costs = 0, steps = 0, down_scales = 0, down = 0, up_scales = 0, up = 0, centroid_scales = 0,
                centroid_weights = 0, centroids = 0;
  std::uint64_t all() const {
    return costs + steps + down_scales + down + up_scales + up + centroid_scales + centroid_weights + centroids;
  }
};

Sizes sizes_of(const ProfileRecord& r) {
  const std::uint64_t inputs = std::uint64_t{r.kv_head_count} * (std::uint64_t{r.key_dim} + r.value_dim) + 1;
  const std::uint64_t queries = std::uint64_t{r.query_head_count} * r.key_dim;
  const std::uint64_t centroids = std::uint64_t{r.query_head_count} * r.centroid_count;
  Sizes s;
  s.costs = 8ull * r.kv_head_count;
  s.steps = std::uint64_t{r.kv_head_count} * r.key_dim;
  s.down_scales = r.map_rank == 0 ? 0 : 2 * inputs;
  s.down = r.map_rank * inputs;
  s.up_scales = r.map_rank == 0 ? 0 : 2 * queries;
  s.up = queries * r.map_rank;
  s.centroid_scales = 2 * centroids;
  s.centroid_weights = 2 * centroids;
  s.centroids = centroids * r.key_dim;
  return s;
}

template <class Member>
Status check_range(Member ProfileRecord::* member, std::uint32_t found, std::uint32_t least, std::uint32_t most) {
  if (found >= least && found <= most) return {};
  return field_error(ErrorCode::kBadSize, kNoOffset, member,
                     found_allowed(found, std::to_string(least) + " to " + std::to_string(most)));
}

Status check_record(const ProfileRecord& r, std::uint64_t payload_size) {
  if (r.record_size != encoded_size<ProfileRecord>()) {
    return field_error(ErrorCode::kBadSize, kNoOffset, &ProfileRecord::record_size, found_allowed(r.record_size, "48"));
  }
  if (Status s = check_reserved(r, kNoOffset); !s) return s;
  if (Status s = check_range(&ProfileRecord::kv_head_count, r.kv_head_count, 1, kMostHeads); !s) return s;
  if (Status s = check_range(&ProfileRecord::query_head_count, r.query_head_count, 1, kMostHeads); !s) return s;
  if (Status s = check_range(&ProfileRecord::key_dim, r.key_dim, 1, kMostDim); !s) return s;
  if (Status s = check_range(&ProfileRecord::value_dim, r.value_dim, 1, kMostDim); !s) return s;
  if (Status s = check_range(&ProfileRecord::map_rank, r.map_rank, 0, kMostRank); !s) return s;
  if (Status s = check_range(&ProfileRecord::centroid_count, r.centroid_count, 0, kMostCentroids); !s) return s;
  if (r.query_head_count % r.kv_head_count != 0) {
    return field_error(ErrorCode::kCorrupt, kNoOffset, &ProfileRecord::query_head_count,
                       found_allowed(r.query_head_count, "a multiple of kv_head_count"));
  }
  if (!(r.attention_scale > 0.0f) || !std::isfinite(r.attention_scale)) {
    return field_error(ErrorCode::kNonFinite, kNoOffset, &ProfileRecord::attention_scale, "it is no finite number above 0");
  }
  const std::uint64_t needed = encoded_size<ProfileRecord>() + sizes_of(r).all();
  if (needed == payload_size) return {};
  return profile_error(ErrorCode::kBadSize, found_allowed(payload_size, std::to_string(needed) + " bytes, as its record says"));
}

/// How numbers of one matrix share scales.
enum class Shared : bool { kByRow, kByColumn };

std::size_t scale_index(std::size_t i, std::size_t width, Shared shared) {
  return shared == Shared::kByRow ? i / width : i % width;
}

/// f16 scales and i8 codes: code = nearest of value / scale, scale = f16 of the largest magnitude that shares it / 127.
/// width: of a row, above 0 where there are values.
void put_matrix(std::span<const float> values, std::size_t width, Shared shared, std::vector<std::uint16_t>& scales,
                std::vector<std::int8_t>& codes) {
  if (values.empty()) return;
  std::vector<float> largest(shared == Shared::kByRow ? values.size() / width : width);
  for (std::size_t i = 0; i < values.size(); ++i) {
    float& found = largest[scale_index(i, width, shared)];
    found = std::max(found, std::abs(values[i]));
  }
  for (const float most : largest) scales.push_back(kernel::f16_from_f32(std::min(most / kMostCode, 65504.0f)));
  for (std::size_t i = 0; i < values.size(); ++i) {
    const float step = kernel::f32_from_f16(scales[scale_index(i, width, shared)]);
    const float code = step > 0.0f ? std::nearbyint(values[i] / step) : 0.0f;
    codes.push_back(static_cast<std::int8_t>(std::clamp(code, -kMostCode, kMostCode)));
  }
}

Result<std::vector<float>> take_matrix(std::span<const std::byte> scale_bytes, std::span<const std::byte> code_bytes, Shared shared) {
  const auto scales = load_numbers<std::uint16_t>(scale_bytes);
  const auto codes = load_numbers<std::int8_t>(code_bytes);
  std::vector<float> values;
  if (scales.empty()) return values;
  values.reserve(codes.size());
  const std::size_t width = shared == Shared::kByRow ? codes.size() / scales.size() : scales.size();
  for (std::size_t i = 0; i < codes.size(); ++i) {
    const std::uint16_t scale = scales[scale_index(i, width, shared)];
    if ((scale & 0x7C00u) == 0x7C00u) return profile_error(ErrorCode::kNonFinite, "a scale is not a finite number");
    values.push_back(static_cast<float>(codes[i]) * kernel::f32_from_f16(scale));
  }
  return values;
}

Status check_costs(std::span<const float> costs) {
  for (const float cost : costs) {
    if (std::isfinite(cost) && cost >= 0.0f) continue;
    return profile_error(ErrorCode::kNonFinite, "a cost is not a finite number from 0 on");
  }
  return {};
}

}  // namespace

std::vector<std::byte> encode_profile_layer(const ProfileLayer& layer) {
  std::array<std::vector<std::uint16_t>, 3> scales;
  std::array<std::vector<std::int8_t>, 3> codes;
  put_matrix(layer.map_down, layer.input_count(), Shared::kByColumn, scales[0], codes[0]);
  put_matrix(layer.map_up, layer.record.map_rank, Shared::kByRow, scales[1], codes[1]);
  put_matrix(layer.centroids, layer.record.key_dim, Shared::kByRow, scales[2], codes[2]);
  std::vector<std::uint16_t> weights;
  for (const float weight : layer.centroid_weights) {
    weights.push_back(static_cast<std::uint16_t>(std::nearbyint(std::clamp(weight, 0.0f, 1.0f) * kWholeWeight)));
  }
  ByteWriter out;
  out.record(layer.record);
  out.numbers(std::span(layer.key_costs));
  out.numbers(std::span(layer.value_costs));
  out.numbers(std::span(layer.key_steps));
  out.numbers(std::span<const std::uint16_t>(scales[0]));
  out.numbers(std::span<const std::int8_t>(codes[0]));
  out.numbers(std::span<const std::uint16_t>(scales[1]));
  out.numbers(std::span<const std::int8_t>(codes[1]));
  out.numbers(std::span<const std::uint16_t>(scales[2]));
  out.numbers(std::span<const std::uint16_t>(weights));
  out.numbers(std::span<const std::int8_t>(codes[2]));
  return out.take();
}

Result<ProfileLayer> parse_profile_layer(std::span<const std::byte> payload) {
  if (payload.size() < encoded_size<ProfileRecord>()) {
    return profile_error(ErrorCode::kBadSize, "shorter than its record");
  }
  ProfileLayer layer;
  layer.record = load<ProfileRecord>(payload);
  if (Status s = check_record(layer.record, payload.size()); !s) return s.error();
  const Sizes sizes = sizes_of(layer.record);
  auto rest = payload.subspan(encoded_size<ProfileRecord>());
  const auto next = [&rest](std::uint64_t size) {
    const auto taken = rest.first(size);
    rest = rest.subspan(size);
    return taken;
  };
  layer.key_costs = load_numbers<float>(next(sizes.costs / 2));
  layer.value_costs = load_numbers<float>(next(sizes.costs / 2));
  layer.key_steps = load_numbers<std::uint8_t>(next(sizes.steps));
  for (const auto& costs : {layer.key_costs, layer.value_costs}) {
    if (Status s = check_costs(costs); !s) return s.error();
  }
  const auto down_scales = next(sizes.down_scales);
  auto down = take_matrix(down_scales, next(sizes.down), Shared::kByColumn);
  if (!down) return down.error();
  const auto up_scales = next(sizes.up_scales);
  auto up = take_matrix(up_scales, next(sizes.up), Shared::kByRow);
  if (!up) return up.error();
  const auto centroid_scales = next(sizes.centroid_scales);
  for (const std::uint16_t weight : load_numbers<std::uint16_t>(next(sizes.centroid_weights))) {
    layer.centroid_weights.push_back(static_cast<float>(weight) / kWholeWeight);
  }
  auto centroids = take_matrix(centroid_scales, next(sizes.centroids), Shared::kByRow);
  if (!centroids) return centroids.error();
  layer.map_down = std::move(*down);
  layer.map_up = std::move(*up);
  layer.centroids = std::move(*centroids);
  return layer;
}

const ProfileLayer* ModelProfile::find(std::uint32_t layer) const {
  const auto found = std::lower_bound(layers.begin(), layers.end(), layer,
                                      [](const ProfileLayer& l, std::uint32_t number) { return l.record.layer < number; });
  return found == layers.end() || found->record.layer != layer ? nullptr : &*found;
}

}  // namespace cachecard
