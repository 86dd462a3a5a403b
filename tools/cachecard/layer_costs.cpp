#include "layer_costs.hpp"

#include <cmath>

#include "cachecard/reader.hpp"

namespace cachecard::cli {
namespace {

std::optional<double> cost_of(std::string_view text) {
  const auto found = number<double>(text);
  return found && std::isfinite(*found) && *found >= 0.0 ? found : std::nullopt;
}

Error profile_error(const std::string& path, Error error) {
  error.detail = fmt::format("--profile {}: {}", path, error.detail);
  return error;
}

enum class Sameness { kSame, kDifferent, kUnknown };

Sameness compare(const Identity& a, const Identity& b, IdentityField field) {
  const Identity::Value* ours = a.find(field);
  const Identity::Value* theirs = b.find(field);
  if (ours == nullptr || theirs == nullptr) return Sameness::kUnknown;
  return *ours == *theirs ? Sameness::kSame : Sameness::kDifferent;
}

/// What a profile measures depends on the weights, hardly on how they are stored: another quantisation of the same source
/// will do, and where no source is named, of a model of the same name and tokenizer.
Status check_model(const std::string& path, const Identity& profile, const Identity& cache) {
  if (compare(profile, cache, IdentityField::kWeightsDigest) == Sameness::kSame) return {};
  const Sameness source = compare(profile, cache, IdentityField::kSourceId);
  if (source == Sameness::kSame) return {};
  if (source == Sameness::kUnknown && compare(profile, cache, IdentityField::kModelName) == Sameness::kSame &&
      compare(profile, cache, IdentityField::kTokenizerDigest) == Sameness::kSame) {
    return {};
  }
  const auto name = [](const Identity& identity) { return identity.text(IdentityField::kModelName).value_or("unknown"); };
  return Error{ErrorCode::kModelMismatch, kNoOffset, {},
               fmt::format("--profile {}: it is of model '{}', the cache of '{}': weights, source, or name and tokenizer must be "
                           "the same", path, name(profile), name(cache))};
}

}  // namespace

bool is_value(const StreamRecord& stream) { return stream.stream == static_cast<std::uint8_t>(StreamKind::kValue); }

Result<std::vector<Pair<double>>> read_layer_costs(const std::string& path, std::uint32_t layer_count) {
  return read_spans<double>({"--sensitivity", "layers", "numbers from 0 on", path, layer_count, &cost_of});
}

Result<ModelProfile> open_profile(const std::string& path, const CardHeader& header) {
  auto file = open_file(path);
  if (!file) return profile_error(path, file.error());
  auto card = CardReader::open(**file);
  if (!card) return profile_error(path, card.error());
  auto profile = read_profile(*card);
  if (!profile) return profile_error(path, profile.error());
  if (Status s = check_model(path, profile->header.identity, header.identity); !s) return s.error();
  return profile;
}

}  // namespace cachecard::cli
