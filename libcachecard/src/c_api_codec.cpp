#include "c_api_codec.hpp"

#include <algorithm>
#include <optional>

#include "cachecard/allocate.hpp"

namespace cachecard::c_api {
namespace {

constexpr double kLeastBits = 0.05;
constexpr double kMostBits = 4096.0;

Status check_codec(const ccd_write_options& given) {
  const bool planes = given.codec == CCD_CODEC_PLANES;
  const bool entropy = given.codec == CCD_CODEC_ENTROPY;
  if (given.codec != CCD_CODEC_EXACT && !planes && !entropy) return argument_error("an unknown codec");
  if (given.key_bits > 8 || given.value_bits > 8) return argument_error("bits are 1 to 8");
  if (given.queries > CCD_QUERIES_BOTH) return argument_error("queries names nothing");
  if (given.bits != 0.0 && !(given.bits >= kLeastBits && given.bits <= kMostBits)) {
    return argument_error("found " + std::to_string(given.bits) + " bits a value, allowed for entropy are 0.05 to 4096");
  }
  if (given.bits != 0.0 && given.file_bytes != 0) return argument_error("file_bytes are in place of bits: leave one of them 0");
  const bool weights = given.token_weights != nullptr || given.weight_count != 0;
  if (weights && (given.token_weights == nullptr || given.weight_count == 0)) {
    return argument_error("token_weights and weight_count go together");
  }
  if (weights && given.queries != CCD_QUERIES_BEST) {
    return argument_error("token_weights say how much each token counts: leave queries 0");
  }
  if (!entropy && (weights || given.queries != CCD_QUERIES_BEST || given.bits != 0.0 || given.file_bytes != 0)) {
    return argument_error("bits, file_bytes, token_weights and queries are for entropy");
  }
  if (!planes && given.layer_bits != nullptr) return argument_error("layer_bits are for planes");
  if (entropy && given.token_bits != nullptr) return argument_error("token_bits are for planes; entropy takes token_weights");
  if (!planes && !entropy && (given.profile != nullptr || given.newest_tokens != 0)) {
    return argument_error("profile and newest_tokens are for planes and entropy");
  }
  if (planes && given.profile != nullptr && (given.layer_bits != nullptr || given.token_bits != nullptr)) {
    return argument_error("a profile finds the bits of every layer: leave layer_bits and token_bits NULL");
  }
  return {};
}

Result<std::optional<ModelProfile>> profile_of(const ccd_write_options& given, const CardHeader& header) {
  if (given.profile == nullptr) return std::optional<ModelProfile>();
  const auto named = [](Error error) {
    error.detail = "profile: " + error.detail;
    return error;
  };
  auto profile = read_profile(given.profile->reader);
  if (!profile) return named(profile.error());
  if (Status s = check_profile(*profile, header.identity); !s) return named(s.error());
  return std::optional(std::move(*profile));
}

Result<PlanesOptions> planes_options(const ccd_write_options& given, const CardHeader& header) {
  PlanesOptions planes;
  if (given.key_bits != 0) planes.key_bits = static_cast<std::uint8_t>(given.key_bits);
  if (given.value_bits != 0) planes.value_bits = static_cast<std::uint8_t>(given.value_bits);
  if ((given.flags & CCD_WRITE_EXACT_TOKENS) != 0) planes.exact_tokens = given.exact_tokens;
  planes.newest_tokens = given.newest_tokens;
  planes.keep_nonfinite = (given.flags & CCD_WRITE_KEEP_NONFINITE) != 0;
  for (std::uint64_t t = 0; given.token_bits != nullptr && t < header.token_count; ++t) {
    planes.token_bits.push_back({given.token_bits[2 * t], given.token_bits[2 * t + 1]});
  }
  for (std::uint64_t l = 0; given.layer_bits != nullptr && l < header.layer_count; ++l) {
    planes.layer_bits.push_back({given.layer_bits[2 * l], given.layer_bits[2 * l + 1]});
  }
  auto profile = profile_of(given, header);
  if (!profile) return profile.error();
  if (!*profile) return planes;
  auto costs = profile_stream_costs(header, **profile);
  if (!costs) return costs.error();
  if (Status s = share_layer_bits(header, *costs, planes); !s) return s.error();
  return planes;
}

Result<EntropyOptions> entropy_options(const ccd_write_options& given, const CacheSource& source, const ParallelFor& parallel) {
  EntropyOptions entropy;
  if (given.bits != 0.0) entropy.bits = given.bits;
  const double bits = given.file_bytes != 0 ? bits_within(source.header(), given.file_bytes) : entropy.bits;
  choose_sinks(source.header().token_count, bits, entropy);
  if ((given.flags & CCD_WRITE_EXACT_TOKENS) != 0) {
    entropy.fine_tokens = 0;
    entropy.exact_tokens = given.exact_tokens;
  }
  entropy.keep_nonfinite = (given.flags & CCD_WRITE_KEEP_NONFINITE) != 0;
  auto profile = profile_of(given, source.header());
  if (!profile) return profile.error();
  if (*profile) {
    if (Status s = use_profile(source.header(), **profile, entropy); !s) return s.error();
  }
  TokenWeighing weighing;
  weighing.source = static_cast<WeightSource>(given.queries);
  weighing.given = {given.token_weights, given.weight_count};
  weighing.profile = *profile ? &**profile : nullptr;
  weighing.newest_tokens = given.newest_tokens;
  weighing.parallel = parallel;
  if (auto weights = weigh_tokens(source, weighing, entropy); !weights) return weights.error();
  return entropy;
}

}  // namespace

Result<ccd_write_options> take_write_options(const ccd_write_options* given) {
  auto options = take_optional(given, "ccd_write_options");
  if (!options) return options;
  constexpr std::uint32_t kFlagsKnown =
      CCD_WRITE_KEEP_EXISTING | CCD_WRITE_NO_SYNC | CCD_WRITE_EXACT_TOKENS | CCD_WRITE_KEEP_NONFINITE;
  if (Status s = check_codec(*options); !s) return s.error();
  if ((options->flags & ~kFlagsKnown) != 0) return argument_error("an unknown write flag");
  if (options->compressor > CCD_COMPRESSOR_SPLIT_ZSTD) return argument_error("an unknown compressor");
  if (options->chunk_order > CCD_ORDER_SPAN_MAJOR) return argument_error("an unknown chunk order");
  return options;
}

Result<CardOptions> card_options(const ccd_write_options& given, const CacheSource& source, const ParallelFor& parallel) {
  CardOptions options;
  options.compressor = static_cast<Compressor>(given.compressor);
  options.chunk_order = static_cast<ChunkOrder>(given.chunk_order);
  if (given.zstd_level != 0) options.zstd_level = given.zstd_level;
  if (given.chunk_tokens != 0) options.chunk_tokens = given.chunk_tokens;
  if (given.provenance != nullptr) options.provenance.text = given.provenance;
  options.parallel = parallel;
  if (given.codec == CCD_CODEC_PLANES) {
    auto planes = planes_options(given, source.header());
    if (!planes) return planes.error();
    options.planes = std::move(*planes);
  }
  if (given.codec == CCD_CODEC_ENTROPY) {
    auto entropy = entropy_options(given, source, parallel);
    if (!entropy) return entropy.error();
    options.entropy = std::move(*entropy);
    options.file_bytes = given.file_bytes;
  }
  const bool says_exact = (given.flags & CCD_WRITE_EXACT_TOKENS) != 0 || given.token_bits != nullptr;
  if (!says_exact && options.planes) {
    auto sinks = find_sinks(source, parallel);
    if (!sinks) return sinks.error();
    options.planes->sinks = std::move(*sinks);
  }
  return options;
}

}  // namespace cachecard::c_api
