#include "planes_settings.hpp"

#include <algorithm>

#include "cachecard/allocate.hpp"
#include "layer_costs.hpp"
#include "profile_file.hpp"

namespace cachecard::cli {
namespace {

/// 1 to 8, or 0 for exact.
std::optional<std::uint8_t> bits_of(std::string_view text) {
  if (text == "exact") return std::uint8_t{0};
  const auto bits = number<std::uint8_t>(text);
  return bits && *bits >= 1 && *bits <= 8 ? bits : std::nullopt;
}

Result<std::vector<TokenBits>> read_bits(std::string_view flag, std::string_view items, const std::string& path,
                                         std::uint64_t count) {
  auto found = read_spans<std::uint8_t>({flag, items, "1 to 8 bits, or exact", path, count, &bits_of});
  if (!found) return found.error();
  std::vector<TokenBits> bits;
  bits.reserve(found->size());
  for (const auto& pair : *found) bits.push_back({pair.key, pair.value});
  return bits;
}

/// What errors of all heads of a stream cost, for each stream of the header.
Result<std::vector<double>> stream_costs(const CodecFlags& flags, const CardHeader& header) {
  if (!flags.profile.empty() && !flags.sensitivity.empty()) {
    return usage_error("--profile has what --sensitivity says: give one of them");
  }
  if (!flags.profile.empty()) {
    auto profile = open_profile(flags.profile, header, {});
    if (!profile) return profile.error();
    if (!has_costs(*profile)) {
      return usage_error(fmt::format("--profile {}: weights alone do not say what errors cost, which is all that planes take from a profile: "
                                     "cachecard calibrate measures it", flags.profile));
    }
    return profile_stream_costs(header, *profile);
  }
  auto layers = read_layer_costs(flags.sensitivity, header.layer_count);
  if (!layers) return layers.error();
  std::vector<double> costs;
  for (const StreamRecord& stream : header.streams) {
    const auto& cost = (*layers)[stream.layer];
    costs.push_back(is_value(stream) ? cost.value : cost.key);
  }
  return costs;
}

/// Layers share the bits that --bits gives to all of them, those of the newest tokens included.
Status set_layer_bits(const CodecFlags& flags, const CardHeader& header, PlanesOptions& planes) {
  if (!flags.layer_map.empty() || !flags.map.empty()) {
    return usage_error("--sensitivity and --profile find the bits of every layer: leave --layer-map and --map out");
  }
  auto costs = stream_costs(flags, header);
  if (!costs) return costs.error();
  return share_layer_bits(header, *costs, planes);
}

}  // namespace

Result<KeyValueBits> parse_bits(const std::string& text) {
  const auto parts = split(text, ',');
  const auto key = number<std::uint8_t>(parts[0]);
  const auto value = parts.size() == 1 ? key : number<std::uint8_t>(parts[1]);
  if (parts.size() > 2 || !key || !value || *key < 1 || *key > 8 || *value < 1 || *value > 8) {
    return usage_error(fmt::format("--bits: found '{}', allowed is K,V or one number, 1 to 8 each", text));
  }
  return KeyValueBits{*key, *value};
}

/// The settings of planes, or nothing where exact codecs are wanted.
Result<std::optional<PlanesOptions>> planes_options(const CodecFlags& flags, const CardHeader& header) {
  if (flags.asked() != "planes") {
    if (flags.has_settings()) {
      return usage_error("--bits, --bytes, --map, --layer-map, --sensitivity, --profile, --weights, --queries, --exact-tokens, "
                         "--newest-tokens, --without and --keep-nonfinite are for --codec planes or entropy");
    }
    return std::optional<PlanesOptions>();
  }
  if (flags.has_weights()) return usage_error("--weights, --queries and --probe are for --codec entropy: planes take --map");
  if (!flags.without.empty()) return usage_error("--without is for --codec entropy");
  PlanesOptions planes;
  if (!flags.bits.empty()) {
    auto bits = parse_bits(flags.bits);
    if (!bits) return bits.error();
    planes.key_bits = bits->key;
    planes.value_bits = bits->value;
  }
  if (!flags.layer_map.empty()) {
    if (!flags.bits.empty() && flags.map.empty()) return usage_error("--layer-map says the bits of every layer: leave --bits out");
    auto layers = read_bits("--layer-map", "layers", flags.layer_map, header.layer_count);
    if (!layers) return layers.error();
    planes.layer_bits = std::move(*layers);
  }
  planes.exact_tokens = flags.exact_tokens.value_or(planes.exact_tokens);
  planes.newest_tokens = flags.newest_tokens;
  if (flags.has_costs()) {
    if (Status s = set_layer_bits(flags, header, planes); !s) return s.error();
  }
  planes.keep_nonfinite = flags.keep_nonfinite;
  if (flags.map.empty()) return std::optional(planes);
  if ((!flags.bits.empty() && flags.layer_map.empty()) || flags.exact_tokens || flags.newest_tokens != 0) {
    return usage_error("--map says the bits of every token: leave --bits, --exact-tokens and --newest-tokens out");
  }
  auto map = read_bits("--map", "tokens", flags.map, header.token_count);
  if (!map) return map.error();
  planes.token_bits = std::move(*map);
  return std::optional(planes);
}

/// For provenance: "" or ", planes 4,3 bits".
std::string describe_planes(const std::optional<PlanesOptions>& planes, const CodecFlags& flags) {
  if (!planes) return {};
  if (!flags.map.empty()) return flags.layer_map.empty() ? ", planes, bits by token" : ", planes, bits by layer and token";
  if (!flags.layer_map.empty()) return fmt::format(", planes, bits by layer, {} exact tokens", planes->exact_tokens);
  if (flags.has_costs()) {
    return fmt::format(", planes {},{} bits shared by layer, {} exact tokens", planes->key_bits, planes->value_bits,
                       planes->exact_tokens);
  }
  return fmt::format(", planes {},{} bits, {} exact tokens", planes->key_bits, planes->value_bits, planes->exact_tokens);
}

}  // namespace cachecard::cli
