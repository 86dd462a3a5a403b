#include <algorithm>
#include <string>

#include "cachecard/allocate.hpp"

namespace cachecard {
namespace {

enum class Sameness { kSame, kDifferent, kUnknown };

Sameness compare(const Identity& a, const Identity& b, IdentityField field) {
  const Identity::Value* ours = a.find(field);
  const Identity::Value* theirs = b.find(field);
  if (ours == nullptr || theirs == nullptr) return Sameness::kUnknown;
  return *ours == *theirs ? Sameness::kSame : Sameness::kDifferent;
}

}  // namespace

Status check_profile(const ModelProfile& profile, const Identity& cache) {
  const Identity& ours = profile.header.identity;
  if (compare(ours, cache, IdentityField::kWeightsDigest) == Sameness::kSame) return {};
  const Sameness source = compare(ours, cache, IdentityField::kSourceId);
  if (source == Sameness::kSame) return {};
  if (source == Sameness::kUnknown && compare(ours, cache, IdentityField::kModelName) == Sameness::kSame &&
      compare(ours, cache, IdentityField::kTokenizerDigest) == Sameness::kSame) {
    return {};
  }
  const auto name = [](const Identity& identity) {
    return std::string(identity.text(IdentityField::kModelName).value_or("unknown"));
  };
  return Error{ErrorCode::kModelMismatch, kNoOffset, {},
               "it is of model '" + name(ours) + "', the cache of '" + name(cache) +
                   "': weights, source, or name and tokenizer must be the same"};
}

bool has_costs(const ModelProfile& profile) {
  const auto any = [](const std::vector<float>& costs) { return std::any_of(costs.begin(), costs.end(), [](float c) { return c > 0.0f; }); };
  return std::any_of(profile.layers.begin(), profile.layers.end(),
                     [&](const ProfileLayer& layer) { return any(layer.key_costs) || any(layer.value_costs); });
}

Status use_profile(const CardHeader& header, const ModelProfile& profile, EntropyOptions& entropy) {
  auto channels = profile_channel_gains(header, profile);
  if (!channels) return channels.error();
  entropy.channel_gains = std::move(*channels);
  if (!has_costs(profile)) return {};
  auto costs = profile_costs(header, profile);
  if (!costs) return costs.error();
  entropy.gains = step_gains(*costs);
  entropy.costs = std::move(*costs);
  return {};
}

}  // namespace cachecard
