#include "weights_map.hpp"

#include <Eigen/Cholesky>
#include <Eigen/Eigenvalues>
#include <Eigen/QR>
#include <algorithm>
#include <cmath>
#include <random>

#include "disturbance.hpp"
#include "observe.hpp"
#include "projections.hpp"
#include "query_centroids.hpp"
#include "short_text.hpp"
#include "step_codes.hpp"

namespace cachecard::llama_calibrate {
namespace {

constexpr std::uint32_t kLeastTokens = 16;   ///< that are decoded, to see what the runtime makes of attention
constexpr std::uint32_t kMostTokens = 640;
constexpr std::uint64_t kMostWork = std::uint64_t{1} << 39;  ///< parameters x tokens: some seconds a core
constexpr float kPriorTokens = 200.0f;       ///< what the weights say counts as much as so many tokens seen
constexpr double kRidge = 1e-3;              ///< of keys' and values' mean energy
constexpr Eigen::Index kMoreDirections = 16;  ///< than asked for, in the search for those that count
constexpr int kPowers = 3;
constexpr std::uint32_t kSeed = 3;
constexpr Eigen::Index kFirstTokens = 16;    ///< whose queries make no centroids
constexpr Eigen::Index kCentroidTokens = 256;  ///< below it there are none
constexpr std::uint32_t kCentroids = 16;
constexpr float kLeastExplained = 0.05f;     ///< of the decoded tokens' queries: below it the weights are read wrongly

/// Orthonormal columns that span what a's do.
Eigen::MatrixXf basis_of(const Eigen::MatrixXf& a) {
  const Eigen::HouseholderQR<Eigen::MatrixXf> qr(a);
  return qr.householderQ() * Eigen::MatrixXf::Identity(a.rows(), a.cols());
}

/// inputs, queries: projections of the same white vector; their last column is a constant's.
LowRankMap map_of(const Rows& inputs, const Rows& queries, Eigen::Index rank) {
  const Eigen::Index width = inputs.cols() - 1;
  const auto a = inputs.leftCols(width);
  const auto b = queries.leftCols(width);
  Eigen::MatrixXf gram = Eigen::MatrixXf::Zero(a.rows(), a.rows());
  gram.selfadjointView<Eigen::Lower>().rankUpdate(a);
  gram.diagonal().array() += static_cast<float>(kRidge) * gram.diagonal().mean();
  const Eigen::LLT<Eigen::MatrixXf, Eigen::Lower> root(gram);
  // whitened x queries: of its directions those that queries vary most in.
  const Eigen::MatrixXf cross = root.matrixL().solve(a * b.transpose());
  const Eigen::Index kept = std::min({rank, cross.rows(), cross.cols()});
  const Eigen::Index tried = std::min({kept + kMoreDirections, cross.rows(), cross.cols()});
  std::mt19937 random(kSeed);
  Eigen::MatrixXf start(cross.cols(), tried);
  for (float& value : start.reshaped()) value = static_cast<float>(random() % 65536) / 32768.0f - 1.0f;
  Eigen::MatrixXf found = basis_of(start);
  for (int i = 0; i < kPowers; ++i) found = basis_of(cross.transpose() * basis_of(cross * found));
  // Within what was found, in order.
  const Eigen::MatrixXf within = cross * found;
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXf> order(within.transpose() * within);
  const Eigen::Index directions = std::max<Eigen::Index>(kept - 1, 1);
  const Eigen::MatrixXf up = found * order.eigenvectors().rightCols(directions).rowwise().reverse();
  const Eigen::MatrixXf down = root.matrixU().solve(cross * up).transpose();
  // Of the constant, what lies in these directions; the last one is the rest's.
  const Eigen::VectorXf constant = queries.col(width) - up * (down * inputs.col(width));
  const Eigen::VectorXf within_up = up.transpose() * constant;
  const Eigen::VectorXf rest = constant - up * within_up;
  const float length = std::max(rest.norm(), 1e-20f);
  LowRankMap map;
  map.up.resize(up.rows(), directions + 1);
  map.up << up, rest / length;
  map.down = Rows::Zero(directions + 1, down.cols() + 1);
  map.down.topLeftCorner(directions, down.cols()) = down;
  map.down.topRightCorner(directions, 1) = within_up;
  map.down(directions, down.cols()) = length;
  return map;
}

/// Output channels in card order, without rotary embedding.
Rows in_card_order(const Rows& rows, const HeadOrder& order) {
  if (order.inverse_frequencies.empty()) return rows;
  const std::vector<float> turn = turns_of(order, 1);
  Eigen::MatrixXf out(rows.rows(), rows.cols());
  const Eigen::MatrixXf in = rows;
  const auto height = static_cast<std::size_t>(rows.rows());
  for (Eigen::Index c = 0; c < in.cols(); ++c) {
    to_card_order(order, {in.col(c).data(), height}, turn, {out.col(c).data(), height});
  }
  // to_card_order takes magnitude off, which rows of weights do not have.
  return out * static_cast<float>(order.magnitude);
}

/// Tokens that were seen, as further columns: what the weights say then counts as kPriorTokens of them. Constants are the means.
/// Returns the queries' energy, by channel.
Eigen::VectorXd add_seen(const ObservedLayer& layer, Rows& inputs, Rows& queries) {
  const Eigen::Index width = inputs.cols() - 1;
  const Eigen::Index count = layer.keys.rows() - kExactTokens;
  Rows seen_inputs(count, layer.keys.cols() + layer.values.cols());
  seen_inputs << layer.keys.bottomRows(count), layer.values.bottomRows(count);
  Rows seen_queries = layer.queries.bottomRows(count);
  Eigen::VectorXd energy = seen_queries.cast<double>().colwise().squaredNorm();
  const Eigen::RowVectorXf input_means = seen_inputs.colwise().mean();
  const Eigen::RowVectorXf query_means = seen_queries.colwise().mean();
  seen_inputs.rowwise() -= input_means;
  seen_queries.rowwise() -= query_means;
  const float weights = std::max(inputs.leftCols(width).squaredNorm(), 1e-30f);
  const float scale = std::sqrt(kPriorTokens * seen_inputs.squaredNorm() / static_cast<float>(count) / weights);
  energy += (scale * queries.leftCols(width)).cast<double>().rowwise().squaredNorm();
  const auto mixed = [&](Rows& rows, const Rows& seen, const Eigen::RowVectorXf& means) {
    Rows out(rows.rows(), width + count + 1);
    out << scale * rows.leftCols(width), seen.transpose(), means.transpose();
    rows = std::move(out);
  };
  mixed(inputs, seen_inputs, input_means);
  mixed(queries, seen_queries, query_means);
  return energy;
}

double explained_share(const ObservedLayer& seen, const LowRankMap& map) {
  Rows inputs(seen.keys.rows(), seen.keys.cols() + seen.values.cols() + 1);
  inputs << seen.keys, seen.values, Rows::Ones(seen.keys.rows(), 1);
  const Rows estimated = inputs * map.down.transpose() * map.up.transpose();
  return 1.0 - double{(seen.queries - estimated).squaredNorm()} / std::max(1e-30, double{seen.queries.squaredNorm()});
}

/// As many as the model reads in some seconds. Where its vocabulary has little of the text, the rest is any tokens.
Tokens tokens_to_see(const llama_model* model) {
  const std::uint64_t able = kMostWork / std::max<std::uint64_t>(llama_model_n_params(model), 1);
  Tokens tokens = tokenize(model, kShortText);
  tokens.resize(std::clamp<std::uint64_t>(std::min<std::uint64_t>(able, tokens.size()), kLeastTokens, kMostTokens), -1);
  const std::int32_t vocabulary = llama_vocab_n_tokens(llama_model_get_vocab(model));
  for (std::size_t t = 0; t < tokens.size(); ++t) {
    if (tokens[t] < 0) tokens[t] = static_cast<llama_token>((static_cast<std::int64_t>(t) * 7919 + 1) % vocabulary);
  }
  return tokens;
}

struct MapJob {
  const ByteSource& source;
  const llama_cpp::GgufFile& file;
  const Observed& seen;
  const std::vector<HeadOrder>& orders;  ///< of keys, by layer seen
  std::uint32_t rank;
  std::vector<ProfileLayer> layers;
  std::vector<Status> statuses;

  Status run(std::size_t i);
};

Status MapJob::run(std::size_t i) {
  const ObservedLayer& layer = seen.layers[i];
  HeadOrder order = orders[i];
  const std::uint64_t key_width = order.width();
  order.head_count = layer.query_head_count;
  auto read = read_projections(source, file, layer.layer,
                               {order.width(), key_width, std::uint64_t{layer.value.kv_head_count} * layer.value.head_dim});
  if (!read) return read.error();
  const Rows keys = in_card_order(read->keys, orders[i]);
  Rows inputs(keys.rows() + read->values.rows(), keys.cols());
  inputs << keys, read->values;
  Rows queries = in_card_order(read->queries, order);
  const Eigen::VectorXd energy = add_seen(layer, inputs, queries);
  const LowRankMap map = map_of(inputs, queries, rank);
  if (explained_share(layer, map) < double{kLeastExplained}) {
    return Error{ErrorCode::kUnsupportedFeature, kNoOffset, {},
                 "layer " + std::to_string(layer.layer) + ": what its weights say of queries is not what the runtime computes"};
  }
  ProfileLayer& made = layers[i];
  made.record.layer = layer.layer;
  made.record.kv_head_count = layer.key.kv_head_count;
  made.record.query_head_count = layer.query_head_count;
  made.record.key_dim = layer.key.head_dim;
  made.record.value_dim = layer.value.head_dim;
  made.record.attention_scale = layer.attention_scale;
  made.record.map_rank = static_cast<std::uint32_t>(map.up.cols());
  made.key_costs.assign(layer.key.kv_head_count, 0.0f);
  made.value_costs.assign(layer.key.kv_head_count, 0.0f);
  made.key_steps = key_step_codes({energy.data(), static_cast<std::size_t>(energy.size())}, made.record.kv_head_count,
                                  made.record.key_dim, layer.pair_count);
  if (layer.queries.rows() >= kCentroidTokens) {
    set_centroids(layer.queries.bottomRows(layer.queries.rows() - kFirstTokens), kCentroids, made);
  }
  made.map_down.assign(map.down.data(), map.down.data() + map.down.size());
  made.map_up.assign(map.up.data(), map.up.data() + map.up.size());
  return {};
}

}  // namespace

Result<ModelProfile> profile_of_weights(const WeightsMapOptions& options) {
  const QuietLog log;
  llama_cpp::ModelOptions reading;
  reading.cache_folder = options.digest_folder;
  auto facts = llama_cpp::read_model(options.model_path, reading);
  if (!facts) return facts.error();
  if (Status s = check_model(*facts); !s) return s.error();
  auto source = open_file(options.model_path);
  if (!source) return source.error();
  auto file = llama_cpp::read_gguf(**source);
  if (!file) return file.error();
  auto model = load_model(options.model_path, {}, options.threads, log);
  if (!model) return model.error();
  Ticker ticker;
  auto observer = Observer::create(model->get(), *facts, kMostTokens, options.threads, ticker);
  if (!observer) return observer.error();
  const Tokens tokens = tokens_to_see(model->get());
  auto seen = (*observer)->observe(tokens, 0, facts->layer_count);
  if (!seen) return seen.error();
  std::vector<HeadOrder> orders;
  for (const ObservedLayer& layer : seen->layers) {
    const bool turned = layer.pair_count > 0 && facts->rope_table.has_value();
    orders.push_back(head_order(layer.key.kv_head_count, layer.key.head_dim, turned ? &*facts->rope_table : nullptr));
  }
  MapJob job{**source, *file, *seen, orders, options.rank, std::vector<ProfileLayer>(orders.size()), std::vector<Status>(orders.size())};
  options.parallel(
      orders.size(),
      [](void* context, std::size_t i) {
        auto& j = *static_cast<MapJob*>(context);
        j.statuses[i] = j.run(i);
      },
      &job);
  for (const Status& s : job.statuses) {
    if (!s) return s.error();
  }
  facts->identity.set_text(IdentityField::kProducer, std::string("libllama ") + llama_version());
  return ModelProfile{std::move(seen->header), std::move(job.layers)};
}

}  // namespace cachecard::llama_calibrate
