#include "layer_statistics.hpp"

#include <algorithm>

#include "query_centroids.hpp"
#include "step_codes.hpp"

namespace cachecard::llama_calibrate {
namespace {

constexpr Eigen::Index kFirstTokens = 16;

std::vector<float> values_of(const Rows& rows) { return {rows.data(), rows.data() + rows.size()}; }

}  // namespace

LayerStatistics::LayerStatistics(const ObservedLayer& shape, std::uint64_t expected_tokens, std::uint64_t samples)
    : pair_count_(shape.pair_count),
      every_(std::max<std::uint64_t>(1, expected_tokens / std::max<std::uint64_t>(1, samples))),
      sums_(shape.keys.cols() + shape.values.cols() + 1, shape.queries.cols()) {
  record_.layer = shape.layer;
  record_.kv_head_count = shape.key.kv_head_count;
  record_.query_head_count = shape.query_head_count;
  record_.key_dim = shape.key.head_dim;
  record_.value_dim = shape.value.head_dim;
  record_.attention_scale = shape.attention_scale;
}

void LayerStatistics::add(const ObservedLayer& observed) {
  const Eigen::Index count = observed.queries.rows() - kFirstTokens;
  if (count <= 0) return;
  Rows inputs(count, observed.keys.cols() + observed.values.cols() + 1);
  inputs << observed.keys.bottomRows(count), observed.values.bottomRows(count), Rows::Ones(count, 1);
  sums_.add(inputs, observed.queries.bottomRows(count));
  for (Eigen::Index t = kFirstTokens; t < observed.queries.rows(); ++t) {
    if (token_++ % every_ != 0) continue;
    const float* row = observed.queries.row(t).data();
    samples_.insert(samples_.end(), row, row + observed.queries.cols());
  }
}

ProfileLayer LayerStatistics::profile(const Wanted& wanted) const {
  ProfileLayer layer;
  layer.record = record_;
  layer.key_costs.assign(record_.kv_head_count, 0.0f);
  layer.value_costs.assign(record_.kv_head_count, 0.0f);
  layer.key_steps = key_step_codes({sums_.energy.data(), static_cast<std::size_t>(sums_.energy.size())}, record_.kv_head_count,
                                   record_.key_dim, pair_count_);
  const LowRankMap map = fit_map(sums_, wanted.rank);
  layer.record.map_rank = static_cast<std::uint32_t>(map.up.cols());
  layer.map_down = values_of(map.down);
  layer.map_up = values_of(map.up);
  const auto width = static_cast<Eigen::Index>(layer.query_width());
  const Eigen::Map<const Rows> samples(samples_.data(), static_cast<Eigen::Index>(samples_.size()) / width, width);
  set_centroids(samples, wanted.centroids, layer);
  return layer;
}

double LayerStatistics::explained(const ProfileLayer& layer) const {
  const auto held = parse_profile_layer(encode_profile_layer(layer));
  if (!held) return 0.0;
  const auto rank = static_cast<Eigen::Index>(held->record.map_rank);
  LowRankMap map;
  map.down = Eigen::Map<const Rows>(held->map_down.data(), rank, sums_.gram.rows());
  map.up = Eigen::Map<const Rows>(held->map_up.data(), sums_.cross.cols(), rank);
  return llama_calibrate::explained(sums_, map);
}

}  // namespace cachecard::llama_calibrate
