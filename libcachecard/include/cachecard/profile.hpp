#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cachecard/reader.hpp"
#include "cachecard/writer.hpp"

/// What was measured once for a model, so that the bits of a card go where they count. A card that was made with a
/// profile never needs it to be read.
namespace cachecard {

/// One layer. Channels of keys and queries are in card order, without rotary embedding; a query head h reads the
/// KV head h / (query_head_count / kv_head_count). spec: FORMAT.md#model-profiles
struct ProfileLayer {
  ProfileRecord record;
  /// What errors cost, in nats of KL for each unit of squared step over the stream's mean square, by KV head. Of keys channel means
  /// are off and a channel's step is times its key_steps; of values the steps go with the square root of each head vector's own magnitude.
  std::vector<float> key_costs;
  std::vector<float> value_costs;
  /// Factors on the steps of a key's channels, T16 codes: 128 is 1, 16 more are twice. [kv_head][key_dim]
  std::vector<std::uint8_t> key_steps;
  /// From a token's keys and values to its queries: queries = up x (down x (keys, values, 1)). Empty where map_rank is 0.
  std::vector<float> map_down;  ///< [map_rank][input_count()]
  std::vector<float> map_up;    ///< [query_head][key_dim][map_rank]
  /// What queries of the model look like, and which share of them does. Empty where centroid_count is 0.
  std::vector<float> centroids;         ///< [query_head][centroid_count][key_dim]
  std::vector<float> centroid_weights;  ///< [query_head][centroid_count], of a head 1 in all

  /// Keys of all heads, then values of all heads, then 1.
  std::size_t input_count() const {
    return std::size_t{record.kv_head_count} * (std::size_t{record.key_dim} + record.value_dim) + 1;
  }
  std::size_t query_width() const { return std::size_t{record.query_head_count} * record.key_dim; }
};

/// Payload of the section. Numbers are rounded to what it holds: see parse_profile_layer for them.
/// Needs: vectors of the lengths above, finite numbers
std::vector<std::byte> encode_profile_layer(const ProfileLayer& layer);
/// Errors: bad_size, bad_enum, reserved_not_zero, corrupt, non_finite, limit_exceeded
Result<ProfileLayer> parse_profile_layer(std::span<const std::byte> payload);

struct ModelProfile {
  CardHeader header;                 ///< of a card of no tokens: the model's identity and streams
  std::vector<ProfileLayer> layers;  ///< ascending by record.layer

  /// nullptr where the layer was not measured.
  const ProfileLayer* find(std::uint32_t layer) const;
};

/// Makes every check of the card's bytes first. Errors: the reader's; invalid_argument (a card that is no profile)
Result<ModelProfile> read_profile(const CardReader& card);
/// The sink is not committed. Errors: those of CardWriter
Result<WriteReport> write_profile(const ModelProfile& profile, const ProvenanceEntry& provenance, ByteSink& sink);

}  // namespace cachecard
