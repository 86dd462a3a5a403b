// Token weights, gains and channel steps out of a model profile.
#include <algorithm>
#include <array>
#include <cmath>

#include "allocate/key_rows.hpp"
#include "cachecard/allocate.hpp"
#include "kernel/attention.hpp"
#include "kernel/attention_tables.hpp"
#include "kernel/entropy.hpp"

namespace cachecard {
namespace {

constexpr std::uint64_t kSpanTokens = 1024;              ///< rows read at once
constexpr std::uint64_t kKeyBytes = std::uint64_t{16} << 20;  ///< of keys as f32 that one task keeps
constexpr float kLog2E = 1.44269504f;
constexpr std::int32_t kCentroidSpan = 256;              ///< positions behind the context that centroids look from

/// Sixteen partial sums, which a compiler keeps in vectors: the same order on every machine.
float dot(const float* a, const float* b, std::size_t count) {
  std::array<float, kernel::kKeyBlock> parts{};
  const std::size_t whole = count / parts.size() * parts.size();
  for (std::size_t i = 0; i < whole; i += parts.size()) {
    for (std::size_t p = 0; p < parts.size(); ++p) parts[p] += a[i + p] * b[i + p];
  }
  for (std::size_t i = whole; i < count; ++i) parts[i - whole] += a[i] * b[i];
  return kernel::sum_of_block(parts.data());
}

/// Keys and values of one layer, both of them float streams, and its part of the profile.
struct Layer {
  const ProfileLayer* profile = nullptr;
  std::size_t key = 0;
  std::size_t value = 0;
};

Error geometry_error(const ProfileLayer& profile, const std::string& detail) {
  return {ErrorCode::kGeometryMismatch, kNoOffset, "model_profile",
          "layer " + std::to_string(profile.record.layer) + ": " + detail};
}

Status check_stream(const ProfileLayer& profile, const StreamRecord& stream) {
  const bool value = stream.stream == static_cast<std::uint8_t>(StreamKind::kValue);
  const std::uint32_t dim = value ? profile.record.value_dim : profile.record.key_dim;
  if (stream.kv_head_count == profile.record.kv_head_count && stream.head_dim == dim) return {};
  return geometry_error(profile, "the cache has " + std::to_string(stream.kv_head_count) + " heads of " +
                                     std::to_string(stream.head_dim) + ", the profile " +
                                     std::to_string(profile.record.kv_head_count) + " of " + std::to_string(dim));
}

Result<std::vector<Layer>> layers_of(const CardHeader& header, const ModelProfile& profile) {
  std::vector<Layer> layers;
  for (const ProfileLayer& layer : profile.layers) {
    const auto key = header.stream_index(layer.record.layer, StreamKind::kKey);
    const auto value = header.stream_index(layer.record.layer, StreamKind::kValue);
    if (!key || !value) continue;
    for (const std::size_t s : {*key, *value}) {
      if (Status checked = check_stream(layer, header.streams[s]); !checked) return checked.error();
    }
    if (is_weighed(header.streams[*key]) && is_weighed(header.streams[*value])) layers.push_back({&layer, *key, *value});
  }
  return layers;
}

/// Weighs the tokens of one layer.
class LayerWeigher {
 public:
  LayerWeigher(const CacheSource& source, const Layer& layer, const WeighOptions& options)
      : source_(source), layer_(layer), options_(options), profile_(*layer.profile), keys_(source, layer.key) {}

  /// weights: [kv_head][token of the stream]
  Status weigh(std::vector<float>& weights);
  bool has_queries() const;
  /// Tokens at the end whose own weights say too little.
  std::uint64_t newest() const;

 private:
  const StreamRecord& stream() const { return source_.header().streams[layer_.key]; }
  Status take_queries();
  Status estimate_queries(std::uint64_t count);
  void take_centroids();
  void add_query(std::span<const float> whole, std::int32_t position, std::uint32_t visible);
  Status load_keys(std::uint32_t first_head, std::uint32_t heads, std::vector<float>& blocks);

  const CacheSource& source_;
  const Layer& layer_;
  const WeighOptions& options_;
  const ProfileLayer& profile_;
  KeyRows keys_;
  std::vector<std::vector<float>> queries_;        ///< by query head: [query][key_dim]
  std::vector<std::uint32_t> visible_;             ///< by query
  std::vector<std::vector<float>> shares_;         ///< by query head
};

bool LayerWeigher::has_queries() const {
  if (stream().token_count < 2 * options_.sink_tokens + 2) return false;
  if (stream().rope_state != static_cast<std::uint8_t>(RopeState::kNone) && !keys_.can_turn()) return false;
  return options_.queries == QuerySource::kMap ? profile_.record.map_rank > 0 : profile_.record.centroid_count > 0;
}

std::uint64_t LayerWeigher::newest() const {
  if (options_.queries != QuerySource::kMap) return 0;
  return std::min(options_.newest_tokens, (stream().token_count - options_.sink_tokens) / 2);
}

void LayerWeigher::add_query(std::span<const float> whole, std::int32_t position, std::uint32_t visible) {
  std::vector<float> row(whole.begin(), whole.end());
  keys_.embed(position, row);
  const float scale = profile_.record.attention_scale * kLog2E;
  for (std::uint32_t h = 0; h < profile_.record.query_head_count; ++h) {
    for (std::uint32_t c = 0; c < profile_.record.key_dim; ++c) {
      queries_[h].push_back(row[h * profile_.record.key_dim + c] * scale);
    }
  }
  visible_.push_back(visible);
}

Status LayerWeigher::estimate_queries(std::uint64_t count) {
  KeyRows values(source_, layer_.value);
  const std::uint64_t first = stream().first_token + stream().token_count - count;
  std::vector<float> k(count * keys_.width());
  std::vector<float> v(count * values.width());
  if (Status s = keys_.read(first, count, false, k); !s) return s;
  if (Status s = values.read(first, count, false, v); !s) return s;
  const std::size_t rank = profile_.record.map_rank;
  const std::size_t inputs = profile_.input_count();
  for (std::uint64_t t = 0; t < count; ++t) {
    std::vector<float> input(k.begin() + static_cast<std::ptrdiff_t>(t * keys_.width()),
                             k.begin() + static_cast<std::ptrdiff_t>((t + 1) * keys_.width()));
    input.insert(input.end(), v.begin() + static_cast<std::ptrdiff_t>(t * values.width()),
                 v.begin() + static_cast<std::ptrdiff_t>((t + 1) * values.width()));
    input.push_back(1.0f);
    std::vector<float> hidden(rank);
    for (std::size_t r = 0; r < rank; ++r) hidden[r] = dot(profile_.map_down.data() + r * inputs, input.data(), inputs);
    std::vector<float> query(profile_.query_width());
    for (std::size_t c = 0; c < query.size(); ++c) query[c] = dot(profile_.map_up.data() + c * rank, hidden.data(), rank);
    const std::uint64_t token = first + t;
    add_query(query, source_.positions()[token], static_cast<std::uint32_t>(token - stream().first_token + 1));
  }
  for (auto& shares : shares_) shares.assign(count, 1.0f);
  return {};
}

void LayerWeigher::take_centroids() {
  const std::uint32_t count = profile_.record.centroid_count;
  const std::size_t dim = profile_.record.key_dim;
  for (std::uint32_t i = 0; i < count; ++i) {
    std::vector<float> query;
    for (std::uint32_t h = 0; h < profile_.record.query_head_count; ++h) {
      const auto from = profile_.centroids.begin() + static_cast<std::ptrdiff_t>((std::size_t{h} * count + i) * dim);
      query.insert(query.end(), from, from + static_cast<std::ptrdiff_t>(dim));
      shares_[h].push_back(profile_.centroid_weights[std::size_t{h} * count + i]);
    }
    const auto ahead = static_cast<std::int32_t>((2 * i + 1) * kCentroidSpan / (2 * count));
    add_query(query, source_.positions().back() + 1 + ahead, static_cast<std::uint32_t>(stream().token_count));
  }
}

/// Keys of some heads as attention sees them, in blocks.
Status LayerWeigher::load_keys(std::uint32_t first_head, std::uint32_t heads, std::vector<float>& blocks) {
  const std::size_t dim = profile_.record.key_dim;
  const kernel::KeyBlocks shape{nullptr, dim, stream().token_count};
  const std::size_t head_floats = shape.block_count() * kernel::kKeyBlock * dim;
  blocks.assign(heads * head_floats, 0.0f);
  KeyRows keys(source_, layer_.key, {first_head, heads});
  std::vector<float> rows(kSpanTokens * keys.width());
  for (std::uint64_t at = 0; at < stream().token_count; at += kSpanTokens) {
    const std::uint64_t count = std::min(kSpanTokens, stream().token_count - at);
    if (Status s = keys.read(stream().first_token + at, count, true, rows); !s) return s;
    for (std::uint32_t h = 0; h < heads; ++h) {
      for (std::uint64_t t = 0; t < count; ++t) {
        const float* row = rows.data() + t * keys.width() + h * dim;
        const std::uint64_t token = at + t;
        float* out = blocks.data() + h * head_floats + token / kernel::kKeyBlock * dim * kernel::kKeyBlock + token % kernel::kKeyBlock;
        for (std::size_t c = 0; c < dim; ++c) out[c * kernel::kKeyBlock] = row[c];
      }
    }
  }
  return {};
}

Status LayerWeigher::take_queries() {
  queries_.assign(profile_.record.query_head_count, {});
  shares_.assign(profile_.record.query_head_count, {});
  visible_.clear();
  if (options_.queries == QuerySource::kMap) return estimate_queries(newest());
  take_centroids();
  return {};
}

Status LayerWeigher::weigh(std::vector<float>& weights) {
  if (Status s = take_queries(); !s) return s;
  const std::uint64_t tokens = stream().token_count;
  const std::uint32_t kv_heads = profile_.record.kv_head_count;
  const std::uint32_t group = profile_.record.query_head_count / kv_heads;
  kernel::KeyBlocks shape{nullptr, profile_.record.key_dim, tokens};
  const std::size_t padded = shape.block_count() * kernel::kKeyBlock;
  const std::size_t head_floats = padded * shape.dim;
  const auto together = static_cast<std::uint32_t>(
      std::clamp<std::uint64_t>(kKeyBytes / (head_floats * sizeof(float)), 1, kv_heads));
  std::vector<float> blocks;
  std::vector<float> scratch(kernel::attention_scratch(shape));
  weights.assign(kv_heads * tokens, 0.0f);
  for (std::uint32_t first = 0; first < kv_heads; first += together) {
    const std::uint32_t heads = std::min(together, kv_heads - first);
    if (Status s = load_keys(first, heads, blocks); !s) return s;
    for (std::uint32_t h = first; h < first + heads; ++h) {
      std::vector<float> sums(padded, 0.0f);
      shape.keys = blocks.data() + (h - first) * head_floats;
      for (std::uint32_t q = h * group; q < (h + 1) * group; ++q) {
        kernel::attention_kernels().add_squares(shape, queries_[q], visible_, shares_[q], scratch.data(), sums.data());
      }
      std::copy(sums.begin(), sums.begin() + static_cast<std::ptrdiff_t>(tokens), weights.begin() + static_cast<std::ptrdiff_t>(h * tokens));
    }
  }
  return {};
}

/// The sums of squares as weights: sinks count the mean, and so that the newest tokens, which few queries saw, do not
/// count too little, they count twice the mean.
void settle(std::span<float> sums, std::uint64_t sinks, std::uint64_t newest) {
  const std::uint64_t end = sums.size() - newest;
  double sum = 0.0;
  for (std::uint64_t t = sinks; t < end; ++t) sum += double{sums[t]};
  const auto mean = static_cast<float>(sum / static_cast<double>(std::max<std::uint64_t>(1, end - sinks)));
  std::fill(sums.begin() + static_cast<std::ptrdiff_t>(end), sums.end(), 2.0f * mean);
  std::fill(sums.begin(), sums.begin() + static_cast<std::ptrdiff_t>(sinks), mean);
  for (float& value : sums) value = std::sqrt(value);
}

struct WeighJob {
  const CacheSource& source;
  const WeighOptions& options;
  std::vector<Layer> layers;
  TokenWeights weights;
  std::vector<std::uint64_t> row_of_use;
  std::vector<Status> statuses;

  void run(std::size_t i);
};

void WeighJob::run(std::size_t i) {
  const CardHeader& header = source.header();
  LayerWeigher weigher(source, layers[i], options);
  if (!weigher.has_queries()) return;
  std::vector<float> sums;
  statuses[i] = weigher.weigh(sums);
  if (!statuses[i]) return;
  const StreamRecord& key = header.streams[layers[i].key];
  const std::size_t first = BitWidthMap::first_use(header, layers[i].key);
  for (std::uint32_t h = 0; h < key.kv_head_count; ++h) {
    const auto row = std::span(sums).subspan(h * key.token_count, key.token_count);
    settle(row, options.sink_tokens, weigher.newest());
    const auto at = row_of_use[first + h] * header.token_count + key.first_token;
    std::copy(row.begin(), row.end(), weights.values.begin() + static_cast<std::ptrdiff_t>(at));
  }
}

/// Of the sources that the profile has.
Result<TokenWeights> summed_weights(const CacheSource& source, const ModelProfile& profile, WeighOptions options) {
  const auto has = [&](auto member) {
    return std::any_of(profile.layers.begin(), profile.layers.end(), [&](const ProfileLayer& layer) { return layer.record.*member > 0; });
  };
  options.queries = QuerySource::kMap;
  auto newest = profile_weights(source, profile, options);
  if (!newest || !has(&ProfileRecord::centroid_count)) return newest;
  options.queries = QuerySource::kCentroids;
  auto centroids = profile_weights(source, profile, options);
  if (!centroids || !has(&ProfileRecord::map_rank)) return centroids;
  const WeightShare shares[] = {{&*newest, 1.0}, {&*centroids, 1.0}};
  return sum_weights(shares);
}

}  // namespace

Result<TokenWeights> profile_weights(const CacheSource& source, const ModelProfile& profile, const WeighOptions& options) {
  if (options.queries == QuerySource::kBoth) return summed_weights(source, profile, options);
  const CardHeader& header = source.header();
  auto layers = layers_of(header, profile);
  if (!layers) return layers.error();
  WeighJob job{source, options, std::move(*layers), {}, weight_row_of_use(header), {}};
  job.weights.row_count = weight_rows(header);
  job.weights.token_count = header.token_count;
  job.weights.values.assign(job.weights.row_count * header.token_count, 0.0f);
  job.statuses.resize(job.layers.size());
  options.parallel(
      job.layers.size(), [](void* context, std::size_t i) { static_cast<WeighJob*>(context)->run(i); }, &job);
  for (const Status& s : job.statuses) {
    if (!s) return s.error();
  }
  return std::move(job.weights);
}

Result<std::vector<std::int8_t>> profile_offsets(const CacheSource& source, const ModelProfile& profile,
                                                 const WeighOptions& options) {
  auto weights = profile_weights(source, profile, options);
  if (!weights) return weights.error();
  return head_offsets(source.header(), *weights);
}

Result<std::vector<double>> profile_costs(const CardHeader& header, const ModelProfile& profile) {
  std::vector<double> costs(BitWidthMap::first_use(header, header.streams.size()), -1.0);
  double sum = 0.0;
  std::size_t known = 0;
  for (std::size_t s = 0; s < header.streams.size(); ++s) {
    const StreamRecord& stream = header.streams[s];
    const auto kind = static_cast<StreamKind>(stream.stream);
    const ProfileLayer* layer = profile.find(stream.layer);
    if (layer == nullptr || (kind != StreamKind::kKey && kind != StreamKind::kValue)) continue;
    if (Status checked = check_stream(*layer, stream); !checked) return checked.error();
    const auto& from = kind == StreamKind::kKey ? layer->key_costs : layer->value_costs;
    for (std::uint32_t h = 0; h < stream.kv_head_count; ++h) {
      costs[BitWidthMap::first_use(header, s) + h] = double{from[h]};
      sum += double{from[h]};
      ++known;
    }
  }
  const double mean = known == 0 ? 1.0 : sum / static_cast<double>(known);
  for (double& cost : costs) cost = cost < 0.0 ? mean : cost;
  return costs;
}

Result<std::vector<double>> profile_stream_costs(const CardHeader& header, const ModelProfile& profile) {
  auto heads = profile_costs(header, profile);
  if (!heads) return heads.error();
  std::vector<double> costs;
  for (std::size_t s = 0; s < header.streams.size(); ++s) {
    double sum = 0.0;
    for (std::size_t use = BitWidthMap::first_use(header, s); use < BitWidthMap::first_use(header, s + 1); ++use) sum += (*heads)[use];
    costs.push_back(sum);
  }
  return costs;
}

Result<std::vector<float>> profile_channel_gains(const CardHeader& header, const ModelProfile& profile) {
  std::vector<float> gains;
  for (const StreamRecord& stream : header.streams) {
    const auto kind = static_cast<StreamKind>(stream.stream);
    const std::size_t elements = kind == StreamKind::kOpaque ? 0 : row_elements(stream);
    const ProfileLayer* layer = kind == StreamKind::kKey ? profile.find(stream.layer) : nullptr;
    if (layer == nullptr) {
      gains.insert(gains.end(), elements, 1.0f);
      continue;
    }
    if (Status checked = check_stream(*layer, stream); !checked) return checked.error();
    for (const std::uint8_t code : layer->key_steps) gains.push_back(kernel::lane_step(code));
  }
  return gains;
}

}  // namespace cachecard
