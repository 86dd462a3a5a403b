#include "kept_profile.hpp"

#include <filesystem>

#include "llama_cpp/gguf_model.hpp"
#include "model_flags.hpp"

namespace cachecard::cli {
namespace {

/// Another for every change of what such a profile holds: older ones are then left alone.
constexpr const char* kEnd = "-weights-1.profile";

}  // namespace

std::string kept_profile_path(const std::string& model) {
  const std::string folder = digest_cache_folder();
  if (folder.empty()) return {};
  llama_cpp::ModelOptions reading;
  reading.cache_folder = folder;
  auto facts = llama_cpp::read_model(model, reading);
  if (!facts) return {};
  const auto digest = facts->identity.digest(IdentityField::kWeightsDigest);
  return digest ? folder + "/" + to_hex(*digest) + kEnd : std::string();
}

Result<ModelProfile> read_kept_profile(const std::string& path) {
  auto file = open_file(path);
  if (!file) return file.error();
  auto card = CardReader::open(**file);
  if (!card) return card.error();
  return read_profile(*card);
}

void keep_profile(const std::string& path, const ModelProfile& profile) {
  std::error_code ignored;
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), ignored);
  auto sink = create_file(path, {.sync = false, .overwrite = true});
  if (!sink) return;
  const ProvenanceEntry provenance{0, ProvenanceOp::kCalibrate, 0, {}, "the model's own weights, and what it does with a short text"};
  if (!write_profile(profile, provenance, **sink)) return;
  const auto committed = (*sink)->commit();
  (void)committed;
}

}  // namespace cachecard::cli
