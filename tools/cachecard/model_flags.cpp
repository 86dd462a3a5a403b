#include "model_flags.hpp"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdlib>

#include "llama_cpp/gguf_model.hpp"

namespace cachecard::cli {
namespace {

using llama_cpp::ModelFacts;

Error missing(std::string_view flag) {
  return {ErrorCode::kInvalidArgument,
          kNoOffset,
          {},
          fmt::format("{} is missing: give --model FILE.gguf, or all of --layers, --kv-heads, "
                      "--head-dim and --rope",
                      flag)};
}

bool any_geometry(const ModelFlags& flags) {
  return flags.layers != 0 || flags.kv_heads != 0 || flags.head_dim != 0 || flags.value_head_dim != 0 ||
         !flags.rope.empty() || flags.rope_dims != 0 || !flags.architecture.empty();
}

Result<ModelFacts> facts_of_flags(const ModelFlags& flags) {
  if (flags.layers == 0) return missing("--layers");
  if (flags.kv_heads == 0) return missing("--kv-heads");
  if (flags.head_dim == 0) return missing("--head-dim");
  if (flags.rope.empty()) return missing("--rope");
  ModelFacts facts;
  facts.architecture = flags.architecture;
  facts.layer_count = flags.layers;
  facts.kv_head_count.assign(flags.layers, flags.kv_heads);
  facts.key_head_dim.assign(flags.layers, flags.head_dim);
  facts.value_head_dim.assign(flags.layers,
                              flags.value_head_dim != 0 ? flags.value_head_dim : flags.head_dim);
  facts.layer_is_sliding.assign(flags.layers, 0);
  if (!flags.architecture.empty()) {
    facts.identity.set_text(IdentityField::kArchitecture, flags.architecture);
  }
  facts.identity.set_text(IdentityField::kRopeType, flags.rope);
  if (flags.rope != "none") {
    facts.rope_pairing = flags.rope == "norm" ? RopePairing::kInterleaved : RopePairing::kHalfSplit;
    facts.rope_dimension_count = flags.rope_dims != 0 ? flags.rope_dims : flags.head_dim;
    facts.identity.set_u64(IdentityField::kRopeDimensionCount, facts.rope_dimension_count);
  }
  return facts;
}

Result<ModelFacts> facts_of_model(const ModelFlags& flags) {
  llama_cpp::ModelOptions options;
  options.cache_folder = digest_cache_folder();
  return llama_cpp::read_model(flags.model, options);
}

}  // namespace

void add_model_options(CLI::App& command, ModelFlags& flags) {
  command.add_option("--model", flags.model, "The model's GGUF file: geometry, RoPE and identity")
      ->type_name("FILE.gguf");
  command
      .add_option("--source-id", flags.source_id,
                  "What the weights come from: base model, repository, revision")
      ->type_name("TEXT");
  command.add_option("--adapters", flags.adapters, "Adapters in force, or none")->type_name("TEXT");
}

void add_geometry_options(CLI::App& command, ModelFlags& flags) {
  const std::string group = "Geometry, where no GGUF is at hand (nothing is guessed)";
  const auto number = [&](const char* name, std::uint32_t& value, const char* help) {
    command.add_option(name, value, help)->check(CLI::Range(1u, 1u << 20))->type_name("N")->group(group);
  };
  command.add_option("--arch", flags.architecture, "Architecture, as GGUF spells it")
      ->type_name("NAME")
      ->group(group);
  number("--layers", flags.layers, "Layers of the model");
  number("--kv-heads", flags.kv_heads, "KV heads of each layer");
  number("--head-dim", flags.head_dim, "Width of a key head");
  number("--value-head-dim", flags.value_head_dim, "Width of a value head (default: as keys)");
  command.add_option("--rope", flags.rope, "RoPE: norm (pairs adjacent), neox (halves) or none")
      ->check(CLI::IsMember({"norm", "neox", "none"}))
      ->type_name("TYPE")
      ->group(group);
  number("--rope-dims", flags.rope_dims, "Rotated width (default: the whole head)");
}

bool any_given(const ModelFlags& flags) {
  return any_geometry(flags) || !flags.model.empty() || !flags.source_id.empty() || !flags.adapters.empty();
}

Result<std::optional<ModelFacts>> model_facts(const ModelFlags& flags) {
  if (!flags.model.empty() && any_geometry(flags)) {
    return Error{ErrorCode::kInvalidArgument,
                 kNoOffset,
                 {},
                 "--model and geometry flags exclude each other: the GGUF says it all"};
  }
  if (!any_given(flags)) return std::optional<ModelFacts>();
  if (flags.model.empty() && !any_geometry(flags)) return missing("--model");
  auto facts = flags.model.empty() ? facts_of_flags(flags) : facts_of_model(flags);
  if (!facts) return facts.error();
  if (!flags.source_id.empty()) {
    facts->identity.set_text(IdentityField::kSourceId, flags.source_id);
  }
  if (!flags.adapters.empty()) facts->identity.set_text(IdentityField::kAdapters, flags.adapters);
  return std::optional<ModelFacts>(std::move(*facts));
}

Error no_model_error() {
  return {ErrorCode::kInvalidArgument,
          kNoOffset,
          {},
          "a state does not say its heads and RoPE: give --model FILE.gguf, or --layers, "
          "--kv-heads, --head-dim and --rope"};
}

std::string model_blame(const Error& error, const ModelFlags& flags, std::string_view command) {
  return error.code == ErrorCode::kInvalidArgument ? std::string(command) : flags.model;
}

std::string digest_cache_folder() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  if (cache != nullptr && *cache == '/') return std::string(cache) + "/cachecard";
  const char* home = std::getenv("HOME");
  if (home != nullptr && *home == '/') return std::string(home) + "/.cache/cachecard";
  return {};
}

}  // namespace cachecard::cli
