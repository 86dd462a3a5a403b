#pragma once

#include <optional>
#include <string>

#include "llama_cpp/state_file.hpp"

namespace CLI {
class App;
}

namespace cachecard::cli {

/// What the user says about the model; nothing is guessed.
struct ModelFlags {
  std::string model;  ///< GGUF file
  std::string source_id;
  std::string adapters;
  std::string architecture;
  std::uint32_t layers = 0;
  std::uint32_t kv_heads = 0;
  std::uint32_t head_dim = 0;
  std::uint32_t value_head_dim = 0;  ///< 0: as head_dim
  std::string rope;                  ///< norm, neox or none
  std::uint32_t rope_dims = 0;       ///< 0: as head_dim
};

/// --model, --source-id, --adapters.
void add_model_options(CLI::App& command, ModelFlags& flags);
/// --arch, --layers, --kv-heads, --head-dim, --value-head-dim, --rope, --rope-dims: for when no
/// GGUF is at hand.
void add_geometry_options(CLI::App& command, ModelFlags& flags);

/// Whether any of these flags was used.
bool any_given(const ModelFlags& flags);

/// Facts of --model (its digest cached under XDG_CACHE_HOME/cachecard), or of the geometry flags;
/// nullopt where neither was given. --source-id and --adapters go into the identity.
/// Errors: invalid_argument naming the missing flag, and read_model's
Result<std::optional<llama_cpp::ModelFacts>> model_facts(const ModelFlags& flags);

/// What a command that cannot do without says when model_facts gave nullopt.
Error no_model_error();
/// What to blame for an error of model_facts: the model's file, or command for a usage error.
std::string model_blame(const Error& error, const ModelFlags& flags, std::string_view command);

/// Folder for model digests: XDG_CACHE_HOME/cachecard, else ~/.cache/cachecard; empty: none.
std::string digest_cache_folder();

}  // namespace cachecard::cli
