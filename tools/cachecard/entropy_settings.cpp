#include "entropy_settings.hpp"

#include <algorithm>
#include <map>

#include "cache_file.hpp"
#include "cachecard/allocate.hpp"
#include "layer_costs.hpp"
#include "profile_file.hpp"
#include "token_look.hpp"

namespace cachecard::cli {
namespace {

constexpr double kUsualBits = 1.5;  ///< a fifth of a q4_0 cache's KL with a profile: tests/fidelity/RESULTS.md
constexpr double kFileBits = 2.0;   ///< with what the model's file says alone: a tenth, but some tokens of texts suffer more
constexpr double kBlindBits = 3.0;  ///< where nothing tells which tokens count

/// The profile that was asked for; without one what the model's own weights say, where its file is at hand.
Result<std::optional<ModelProfile>> profile_at_hand(const CodecFlags& flags, const CardHeader& header, const ParallelFor& parallel,
                                                    CodecNotes& notes) {
  const bool named = !flags.profile.empty();
  const bool looks = flags.weights.empty() && flags.queries != "none" && flags.queries != "recency";
  if (!named && (flags.model.empty() || !looks)) return std::optional<ModelProfile>();
  auto opened = named ? open_profile(flags.profile, header, parallel) : profile_of_weights(flags.model, header, parallel);
  if (opened) return std::optional<ModelProfile>(std::move(*opened));
  if (named || opened.error().code == ErrorCode::kInterrupted) return opened.error();
  notes.notes.push_back("the model's own weights do not tell which tokens count: " + opened.error().detail);
  return std::optional<ModelProfile>();
}

bool is_left_out(const CodecFlags& flags, std::string_view part) {
  return std::find(flags.without.begin(), flags.without.end(), part) != flags.without.end();
}

/// What is known of the model: gains by head and channel.
Status set_gains(const CodecFlags& flags, const CardHeader& header, const ModelProfile* profile, EntropyOptions& entropy) {
  if (profile != nullptr) {
    if (Status s = use_profile(header, *profile, entropy); !s) return s;
  }
  if (flags.sensitivity.empty()) return {};
  auto layers = read_layer_costs(flags.sensitivity, header.layer_count);
  if (!layers) return layers.error();
  std::vector<double> costs;
  for (const StreamRecord& stream : header.streams) {
    const auto& cost = (*layers)[stream.layer];
    costs.insert(costs.end(), stream.kv_head_count, is_value(stream) ? cost.value : cost.key);
  }
  entropy.gains = step_gains(costs);
  return {};
}

/// Offsets that a file says outright, row by row as weights are.
std::vector<std::int8_t> rows_as_offsets(const CardHeader& header, const TokenWeights& half_bits) {
  std::vector<std::int8_t> offsets;
  for (const std::uint64_t row : weight_row_of_use(header)) {
    const std::uint64_t from = std::min(row, half_bits.row_count - 1) * half_bits.token_count;
    for (std::uint64_t t = 0; t < half_bits.token_count; ++t) offsets.push_back(static_cast<std::int8_t>(half_bits.values[from + t]));
  }
  return offsets;
}

/// Whose look at the tokens counts, the best that is at hand.
Status set_offsets(const CodecFlags& flags, const CacheSource& source, const ModelProfile* profile,
                   const ParallelFor& parallel, EntropyOptions& entropy, CodecNotes& notes) {
  const CardHeader& header = source.header();
  auto look = find_look(flags, source, profile, parallel, notes.notes);
  if (!look) return look.error();
  std::vector<std::int8_t> offsets;
  entropy.fixed_offsets = look->half_bits;
  if (look->weights) offsets = look->half_bits ? rows_as_offsets(header, *look->weights) : head_offsets(header, *look->weights);
  const WeighReport report = use_offsets(header, std::move(offsets), flags.newest_tokens, entropy);
  if (report.used) {
    notes.provenance += fmt::format(", token weights {}", look->whose);
  } else if (look->weights) {
    notes.notes.push_back(fmt::format("token weights {} gain {:.1f} dB, below {:.1f}: all tokens keep the same steps", look->whose,
                                      report.gain, kLeastGain));
  }
  return {};
}

}  // namespace

Result<EntropyOptions> entropy_options(const CodecFlags& flags, const CacheSource& source, const ParallelFor& parallel,
                                       CodecNotes& notes) {
  const CardHeader& header = source.header();
  if (!flags.map.empty() || !flags.layer_map.empty()) {
    return usage_error("--map and --layer-map are for --codec planes");
  }
  if (!flags.weights.empty() && !flags.queries.empty()) {
    return usage_error("--weights says how much each token counts: leave --queries out");
  }
  EntropyOptions entropy;
  entropy.bits = kBlindBits;
  if (!flags.bits.empty()) {
    const auto bits = number<double>(flags.bits);
    if (!bits || !(*bits >= 0.05 && *bits <= 4096.0)) {
      return usage_error(fmt::format("--bits: found '{}', allowed for entropy is one number, 0.05 to 4096", flags.bits));
    }
    entropy.bits = *bits;
  }
  entropy.keep_nonfinite = flags.keep_nonfinite;
  if (!flags.profile.empty() && !flags.sensitivity.empty() && !is_gguf_file(flags.profile)) {
    return usage_error("--profile has what --sensitivity says: give one of them");
  }
  entropy.means = !is_left_out(flags, "means");
  entropy.references = !is_left_out(flags, "references");
  entropy.value_scales = !is_left_out(flags, "scales");
  auto profile = profile_at_hand(flags, header, parallel, notes);
  if (!profile) return profile.error();
  const ModelProfile* known = *profile ? &**profile : nullptr;
  if (Status s = set_gains(flags, header, known, entropy); !s) return s.error();
  if (is_left_out(flags, "head-gains")) entropy.gains.clear();
  if (is_left_out(flags, "channel-gains")) entropy.channel_gains.clear();
  for (const std::string& part : flags.without) notes.provenance += fmt::format(", without {}", part);
  if (Status s = set_offsets(flags, source, known, parallel, entropy, notes); !s) return s.error();
  if (flags.bits.empty() && known != nullptr) entropy.bits = entropy.costs.empty() ? kFileBits : kUsualBits;
  const double bits = flags.bytes != 0 ? bits_within(header, flags.bytes) : entropy.bits;
  choose_sinks(header.token_count, bits, entropy);
  if (flags.exact_tokens) {
    entropy.exact_tokens = *flags.exact_tokens;
    entropy.fine_tokens = 0;
  }
  const std::string rate = flags.bytes != 0 ? fmt::format("{} bytes", flags.bytes) : fmt::format("{} bits", entropy.bits);
  notes.provenance = fmt::format(", entropy {}, {} exact tokens, {} fine tokens", rate, entropy.exact_tokens, entropy.fine_tokens) +
                     notes.provenance;
  return entropy;
}

}  // namespace cachecard::cli
