#include "entropy_settings.hpp"

#include <algorithm>
#include <cmath>

#include "cachecard/allocate.hpp"
#include "layer_costs.hpp"
#include "profile_file.hpp"
#include "token_look.hpp"

namespace cachecard::cli {
namespace {

constexpr std::int8_t kHalfStep = 2;  ///< half bits that halve the step
constexpr std::int8_t kMostOffset = 8;
constexpr double kUsualBits = 1.5;  ///< a fifth of a q4_0 cache's KL with a profile: tests/fidelity/RESULTS.md
constexpr double kBlindBits = 3.0;  ///< where nothing tells what errors of each head cost: the same with weights through a GGUF

std::size_t use_count(const CardHeader& header) { return BitWidthMap::first_use(header, header.streams.size()); }

/// The profile that was asked for; without one what the model's own weights say, where its file is at hand.
Result<std::optional<ModelProfile>> profile_at_hand(const CodecFlags& flags, const CardHeader& header, const ParallelFor& parallel,
                                                    CodecNotes& notes) {
  const bool named = !flags.profile.empty();
  const bool looks = flags.weights.empty() && flags.queries != "none" && flags.queries != "recency";
  if (!named && (flags.model.empty() || !looks)) return std::optional<ModelProfile>();
  auto opened = open_profile(named ? flags.profile : flags.model, header, parallel);
  if (opened) return std::optional<ModelProfile>(std::move(*opened));
  if (named || opened.error().code == ErrorCode::kInterrupted) return opened.error();
  notes.notes.push_back(opened.error().detail);
  return std::optional<ModelProfile>();
}

/// What is known of the model: gains by head and channel.
Status set_gains(const CodecFlags& flags, const CardHeader& header, const ModelProfile* profile, EntropyOptions& entropy) {
  std::vector<double> costs;
  const bool measured = profile != nullptr && has_costs(*profile);
  if (profile != nullptr) {
    auto channels = profile_channel_gains(header, *profile);
    if (!channels) return channels.error();
    entropy.channel_gains = std::move(*channels);
  }
  if (measured) {
    auto of_profile = profile_costs(header, *profile);
    if (!of_profile) return of_profile.error();
    costs = std::move(*of_profile);
  } else if (!flags.sensitivity.empty()) {
    auto layers = read_layer_costs(flags.sensitivity, header.layer_count);
    if (!layers) return layers.error();
    for (const StreamRecord& stream : header.streams) {
      const auto& cost = (*layers)[stream.layer];
      costs.insert(costs.end(), stream.kv_head_count, is_value(stream) ? cost.value : cost.key);
    }
  }
  entropy.gains = step_gains(costs);
  if (measured) entropy.costs = std::move(costs);
  return {};
}

/// Whose look at the tokens counts, the best that is at hand.
Status set_offsets(const CodecFlags& flags, const CacheSource& source, const ModelProfile* profile,
                   const ParallelFor& parallel, EntropyOptions& entropy, CodecNotes& notes) {
  const CardHeader& header = source.header();
  auto look = find_look(flags, source, profile, parallel, notes.notes);
  if (!look) return look.error();
  if (!look->weights) return {};
  std::vector<std::int8_t> offsets = head_offsets(header, *look->weights);
  const double gain = offsets_gain(offsets, header.token_count);
  if (gain < kLeastGain) {
    notes.notes.push_back(fmt::format("token weights {} gain {:.1f} dB, below {:.1f}: all tokens keep the same steps", look->whose, gain, kLeastGain));
    return {};
  }
  notes.provenance += fmt::format(", token weights {}", look->whose);
  entropy.token_offsets = std::move(offsets);
  return {};
}

void set_newest_tokens(const CodecFlags& flags, const CardHeader& header, EntropyOptions& entropy) {
  const std::uint64_t newest = std::min(flags.newest_tokens, header.token_count);
  if (newest == 0) return;
  const std::size_t uses = use_count(header);
  entropy.token_offsets.resize(uses * header.token_count, 0);
  for (std::size_t use = 0; use < uses; ++use) {
    const auto row = std::span(entropy.token_offsets).subspan(use * header.token_count, header.token_count);
    for (std::int8_t& offset : row.last(newest)) offset = static_cast<std::int8_t>(std::min(offset + kHalfStep, +kMostOffset));
  }
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
  if (flags.exact_tokens) {
    entropy.fine_tokens -= std::min(entropy.fine_tokens, *flags.exact_tokens);
    entropy.exact_tokens = *flags.exact_tokens;
  }
  entropy.keep_nonfinite = flags.keep_nonfinite;
  if (!flags.profile.empty() && !flags.sensitivity.empty() && !is_gguf_file(flags.profile)) {
    return usage_error("--profile has what --sensitivity says: give one of them");
  }
  auto profile = profile_at_hand(flags, header, parallel, notes);
  if (!profile) return profile.error();
  const ModelProfile* known = *profile ? &**profile : nullptr;
  if (Status s = set_gains(flags, header, known, entropy); !s) return s.error();
  if (Status s = set_offsets(flags, source, known, parallel, entropy, notes); !s) return s.error();
  if (flags.bits.empty() && !entropy.costs.empty()) entropy.bits = kUsualBits;
  const std::string rate = flags.bytes != 0 ? fmt::format("{} bytes", flags.bytes) : fmt::format("{} bits", entropy.bits);
  notes.provenance = fmt::format(", entropy {}, {} exact tokens, {} fine tokens", rate, entropy.exact_tokens, entropy.fine_tokens) +
                     notes.provenance;
  set_newest_tokens(flags, header, entropy);
  return entropy;
}

}  // namespace cachecard::cli
