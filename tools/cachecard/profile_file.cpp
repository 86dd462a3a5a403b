#include "profile_file.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "cachecard/reader.hpp"
#include "context.hpp"
#include "llama_part.hpp"
#include "model_flags.hpp"

namespace cachecard::cli {
namespace {

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

bool is_gguf(const ByteSource& file) {
  std::array<std::byte, 4> magic{};
  return file.size() >= magic.size() && file.read_at(0, magic) && std::memcmp(magic.data(), "GGUF", magic.size()) == 0;
}

Result<ModelProfile> of_weights(const std::string& path, const ParallelFor& parallel) {
  auto module = llama_module();
  if (!module) return module.error();
  llama_calibrate::WeightsMapOptions options;
  options.model_path = path;
  options.digest_folder = digest_cache_folder();
  options.threads = static_cast<std::uint32_t>(std::max<std::size_t>(1, parallel.width));
  options.parallel = parallel;
  return (*module)->make_profile_of_weights(options);
}

}  // namespace

bool is_gguf_file(const std::string& path) {
  auto file = open_file(path);
  return file && is_gguf(**file);
}

bool has_costs(const ModelProfile& profile) {
  const auto any = [](const std::vector<float>& costs) { return std::any_of(costs.begin(), costs.end(), [](float c) { return c > 0.0f; }); };
  return std::any_of(profile.layers.begin(), profile.layers.end(),
                     [&](const ProfileLayer& layer) { return any(layer.key_costs) || any(layer.value_costs); });
}

Result<ModelProfile> open_profile(const std::string& path, const CardHeader& header, const ParallelFor& parallel) {
  auto file = open_file(path);
  if (!file) return profile_error(path, file.error());
  if (is_gguf(**file)) {
    auto made = of_weights(path, parallel);
    if (!made) return profile_error(path, made.error());
    if (Status s = check_model(path, made->header.identity, header.identity); !s) return s.error();
    return made;
  }
  auto card = CardReader::open(**file);
  if (!card) return profile_error(path, card.error());
  auto profile = read_profile(*card);
  if (!profile) return profile_error(path, profile.error());
  if (Status s = check_model(path, profile->header.identity, header.identity); !s) return s.error();
  return profile;
}

}  // namespace cachecard::cli
