#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cachecard/profile.hpp"

/// Which bits are worth their bytes.
namespace cachecard {

/// What errors of one stream cost.
struct StreamWeight {
  /// KL of the next token, in nats, for each unit of the stream's relative squared error; any common factor will do.
  double sensitivity = 0.0;
  std::uint64_t value_count = 0;
};

/// Bits of each stream, 2 to most (1 where the mean is below 2), so that the sum of sensitivity x 4^-bits is least
/// under a mean over all values of at most mean_bits: a bit less is four times the squared error. Streams of equal
/// gain get theirs in order. Source: reverse water-filling with whole bits, bit by bit (greedy, exact where streams are
/// of equal size)
/// Errors: invalid_argument (no values, a sensitivity that is negative or not finite, mean_bits or most out of range)
Result<std::vector<std::uint8_t>> allocate_bits(std::span<const StreamWeight> streams, double mean_bits,
                                                std::uint8_t most = 8);

/// Layers share planes.key_bits and value_bits, those of planes.newest_tokens included, by what errors of each stream cost:
/// sets planes.layer_bits. costs: one for each stream of the header, of any common factor. Errors: invalid_argument
Status share_layer_bits(const CardHeader& header, std::span<const double> costs, PlanesOptions& planes);

/// Factors on the steps of each (stream, KV head) in the map's order, 1 for the one whose errors cost most: cost^(-3/8).
/// Theory says -1/2, where an error's cost is its square's; at a bit a value costs grow more slowly (measured on
/// fixtures/calibration). costs: finite, 0 or more; what is below 1/1,000 of the largest is noise and counts as that
std::vector<float> step_gains(std::span<const double> costs);

/// How finely each token of a head is kept, from how much it is looked at: the nearest half bit to 1.2 x log2 of its weight
/// over their mean, a twentieth of it mixed in, -6 to 6. Weights that say nothing (all 0, or not finite) give 0.
/// Source: rate-distortion theory has 1 in place of 1.2; both numbers measured on fixtures/calibration
void weight_offsets(std::span<const float> weights, std::span<std::int8_t> out);

/// How far the predicted error falls below that of one step for all tokens at the same bits, in dB: arithmetic over
/// geometric mean of the weights that the offsets stand for.   offsets: [use][token_count]
double offsets_gain(std::span<const std::int8_t> offsets, std::uint64_t token_count);

/// By what offsets lower a head's error against one step for all tokens, where they came from weights of weight_offsets:
/// mean of weight^2 x step^2 over mean of weight^2; 1 for none.
double offsets_error(std::span<const std::int8_t> offsets);

/// What ModelProfile's costs are for each unit of: a step over the stream's root mean square, squared, less where steps are so
/// large that nothing more can get lost.
double relative_step_square(double step);

/// Tokens that attention falls back on, wherever they stand: those whose values' norm is an outlier (three times a head's median, or a
/// fifth of it) in one of twelve heads of all layers; none where they would be more than one in 64. Ascending.
/// Source: KVSink; what it is worth: tests/fidelity/RESULTS.md.   Errors: the source's
Result<std::vector<std::uint64_t>> find_sinks(const CacheSource& source, const ParallelFor& parallel = {});

/// Keeps the first tokens exact, or at 8 bits where a card is so short, or its bits so few, that what exactness costs is better
/// spent on all tokens (measured: the two are as good at 1.3 bits and 1,300 tokens). bits: a value, of the whole file;
/// where file_bytes are asked for, bits_within.
void choose_sinks(std::uint64_t token_count, double bits, EntropyOptions& entropy);

/// Bits that a file of so many bytes leaves for each f32, f16 or bf16 value, once what stays as it is has its bytes; 0: none.
double bits_within(const CardHeader& header, std::uint64_t file_bytes);

/// Below this, a uniform map is as good.
inline constexpr double kLeastGain = 0.5;  ///< dB

/// How much tokens count, any scale: one row for all, or weight_rows(header) of them.
struct TokenWeights {
  std::uint64_t row_count = 1;
  std::uint64_t token_count = 0;
  std::vector<float> values;  ///< [row][token], finite, 0 or more
};

/// Rows of weights by head: KV heads of the key and latent streams, in the header's order.
std::uint64_t weight_rows(const CardHeader& header);
/// Which of them each (stream, KV head) takes, in the map's order: values take that of their layer's keys.
std::vector<std::uint64_t> weight_row_of_use(const CardHeader& header);

struct WeightShare {
  const TokenWeights* weights = nullptr;
  double share = 1.0;
};

/// Sum of weights, each row over its mean first, times its share. A row that says nothing (all 0) counts as flat.
/// Needs: shares 0 or more; weights of one token count, and of one row or all of the same count
TokenWeights sum_weights(std::span<const WeightShare> shares);

/// How finely each token of each head is kept: weight_offsets of its stream's tokens. [use][token]
/// Needs: weights of the header's tokens, and of one row or weight_rows(header)
std::vector<std::int8_t> head_offsets(const CardHeader& header, const TokenWeights& weights);

/// How far offsets [use][token] take the predicted error of tokens that count as weights say below that of one step for all
/// at the same bits, in dB, the mean over heads. Other than offsets_gain it judges offsets by weights that they were not made from.
double weighted_gain(const CardHeader& header, const TokenWeights& weights, std::span<const std::int8_t> offsets);

/// Whose look at the tokens counts.
enum class QuerySource : std::uint8_t {
  kMap,        ///< the context's newest queries, estimated from their own keys and values by the profile's map
  kCentroids,  ///< what queries of the model look like
  kBoth,       ///< both, each over its mean, summed: the sender's look, and what it did not look for. What the profile lacks is left out
};

struct WeighOptions {
  QuerySource queries = QuerySource::kBoth;
  std::uint64_t newest_tokens = 64;  ///< whose queries look, and which themselves count twice the mean
  std::uint64_t sink_tokens = 4;     ///< first tokens, which all look at whatever they hold: they count the mean
  ParallelFor parallel;
};

/// Token weights without any attention seen: sqrt of the sum, over queries and the query heads that share a KV head, of
/// the attention's squares, as offsets [use][token] in half bits; use: (stream, KV head) in the map's order.
/// A layer that the profile or the card's RoPE table does not cover gets 0 (recency_offsets is better).
/// Memory: 16 MiB and one span of rows for each task.   Source: Expected Attention and SnapKV, squared: entropy's error
/// of a value goes with A^2
/// Errors: those of the source; geometry_mismatch (a layer's heads or widths are not the profile's)
Result<std::vector<std::int8_t>> profile_offsets(const CacheSource& source, const ModelProfile& profile,
                                                 const WeighOptions& options = {});

/// The same weights by weight_rows(header), before they become offsets: rows of such layers are 0.
Result<TokenWeights> profile_weights(const CacheSource& source, const ModelProfile& profile, const WeighOptions& options = {});

/// Where nothing at all is known but the order of tokens: newer ones are looked at more. [use][token]
std::vector<std::int8_t> recency_offsets(const CardHeader& header);
/// The same as one row of weights.
TokenWeights recency_weights(std::uint64_t token_count);

/// Offsets [use][token] from weights[row][token], finite and 0 or more. Rows: one for all, or one for each KV head of the
/// header's key and latent streams in their order; a layer's values take its keys' rows.
/// Errors: invalid_argument (another number of weights; one that is negative or not finite, naming row and token)
Result<std::vector<std::int8_t>> given_offsets(const CardHeader& header, std::span<const float> weights);

/// Where token weights come from, if none are given.
enum class WeightSource : std::uint8_t {
  kBest,       ///< kBoth with a profile, else kRecency
  kNewest,     ///< QuerySource::kMap; needs a profile
  kCentroids,  ///< needs a profile
  kRecency,
  kNone,       ///< all tokens count alike
  kBoth,       ///< QuerySource::kBoth; needs a profile
};

struct TokenWeighing {
  WeightSource source = WeightSource::kBest;
  std::span<const float> given;         ///< as given_offsets takes them, in place of source; empty: none
  const ModelProfile* profile = nullptr;
  std::uint64_t newest_tokens = 0;      ///< last tokens of the card, whose steps are halved on top
  ParallelFor parallel;
};

struct WeighReport {
  WeightSource source = WeightSource::kNone;  ///< never kBest; where given, kNone
  double gain = 0.0;                          ///< offsets_gain, in dB
  bool used = false;                          ///< gain is kLeastGain or more; else all tokens keep the same steps
};

/// Sets entropy.token_offsets, the best that is at hand.
/// Errors: invalid_argument (a source without its profile), those of given_offsets and profile_offsets
Result<WeighReport> weigh_tokens(const CacheSource& source, const TokenWeighing& weighing, EntropyOptions& entropy);
/// Sets entropy.token_offsets where they gain enough, and halves the steps of the newest tokens on top. source stays kNone.
WeighReport use_offsets(const CardHeader& header, std::vector<std::int8_t> offsets, std::uint64_t newest_tokens, EntropyOptions& entropy);

/// Whether errors were measured: a profile of weights alone has no costs.
bool has_costs(const ModelProfile& profile);
/// Sets gains, channel_gains and costs as far as the profile knows them. Errors: geometry_mismatch
Status use_profile(const CardHeader& header, const ModelProfile& profile, EntropyOptions& entropy);

/// Whether a profile may speak for a cache: weights are the same, or their source, or where no source is named the model's
/// name and tokenizer. What a profile measures depends on the weights, hardly on how they are stored.
/// Errors: model_mismatch
Status check_profile(const ModelProfile& profile, const Identity& cache);

/// Costs by (stream, KV head) for step_gains. Layers that were not measured: the mean of the others.
/// Errors: geometry_mismatch
Result<std::vector<double>> profile_costs(const CardHeader& header, const ModelProfile& profile);
/// The same for each stream of the header, its heads' together. Errors: geometry_mismatch
Result<std::vector<double>> profile_stream_costs(const CardHeader& header, const ModelProfile& profile);
/// Factors on the steps of each channel, in card order, of all streams in the header's order. Errors: geometry_mismatch
Result<std::vector<float>> profile_channel_gains(const CardHeader& header, const ModelProfile& profile);

}  // namespace cachecard
