#include "profile_file.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "cachecard/allocate.hpp"
#include "cachecard/reader.hpp"
#include "context.hpp"
#include "kept_profile.hpp"
#include "llama_part.hpp"
#include "model_flags.hpp"

namespace cachecard::cli {
namespace {

Error profile_error(const std::string& path, Error error) {
  error.detail = fmt::format("--profile {}: {}", path, error.detail);
  return error;
}

bool is_gguf(const ByteSource& file) {
  std::array<std::byte, 4> magic{};
  return file.size() >= magic.size() && file.read_at(0, magic) && std::memcmp(magic.data(), "GGUF", magic.size()) == 0;
}

}  // namespace

bool is_gguf_file(const std::string& path) {
  auto file = open_file(path);
  return file && is_gguf(**file);
}

Result<ModelProfile> profile_of_weights(const std::string& model, const CardHeader& header, const ParallelFor& parallel) {
  const std::string kept = kept_profile_path(model);
  if (!kept.empty()) {
    auto profile = read_kept_profile(kept);
    if (profile && check_profile(*profile, header.identity)) return profile;
  }
  auto module = llama_module();
  if (!module) return module.error();
  llama_calibrate::WeightsMapOptions options;
  options.model_path = model;
  options.digest_folder = digest_cache_folder();
  options.threads = static_cast<std::uint32_t>(std::max<std::size_t>(1, parallel.width));
  options.parallel = parallel;
  auto made = (*module)->make_profile_of_weights(options);
  if (!made) return made.error();
  for (ProfileLayer& layer : made->layers) {  // numbers as a kept one has them
    auto held = parse_profile_layer(encode_profile_layer(layer));
    if (!held) return held.error();
    layer = *std::move(held);
  }
  if (!kept.empty()) keep_profile(kept, *made);
  if (Status s = check_profile(*made, header.identity); !s) return s.error();
  return made;
}

Result<ModelProfile> open_profile(const std::string& path, const CardHeader& header, const ParallelFor& parallel) {
  auto file = open_file(path);
  if (!file) return profile_error(path, file.error());
  if (is_gguf(**file)) {
    auto made = profile_of_weights(path, header, parallel);
    return made ? std::move(made) : profile_error(path, made.error());
  }
  auto card = CardReader::open(**file);
  if (!card) return profile_error(path, card.error());
  auto profile = read_profile(*card);
  if (!profile) return profile_error(path, profile.error());
  if (Status s = check_profile(*profile, header.identity); !s) return profile_error(path, s.error());
  return profile;
}

}  // namespace cachecard::cli
