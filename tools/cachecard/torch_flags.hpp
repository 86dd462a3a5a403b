#pragma once

#include <optional>
#include <string>

#include "cachecard/types.hpp"
#include "torch/cache_layout.hpp"
#include "torch/pt_cache.hpp"
#include "torch/torch_module.hpp"

namespace CLI {
class App;
}

namespace cachecard::cli {

struct ModelFlags;

/// What the user says about a .pt, as source and as target.
struct TorchFlags {
  std::string tokens;   ///< file of token ids
  std::string pairing;  ///< half-split or interleaved
  std::uint32_t sliding_window = 0;
  std::string dtype;  ///< f32, f16 or bf16
  bool libtorch = false;
};

/// --tokens, --pairing, --sliding-window: what files of tensors do not say.
void add_tensor_options(CLI::App& command, TorchFlags& flags);
/// These, --dtype and --libtorch.
void add_torch_options(CLI::App& command, TorchFlags& flags);

std::optional<RopePairing> pairing_of(const TorchFlags& flags);
std::optional<DType> dtype_of(const TorchFlags& flags);

/// What a .pt does not say: of --model or the geometry flags, --tokens and --pairing, held against
/// what it says. cache gets its windows. Errors: invalid_argument naming what to give; foreign_input
/// where model and file do not fit; read_model's, io
Result<pytorch::CacheFacts> torch_facts(const ModelFlags& model, const TorchFlags& flags,
                                        pytorch::PtCache& cache);

/// The module built on libtorch. Errors: unsupported_feature, saying how to get it
Result<const pytorch::TorchModule*> torch_module();

}  // namespace cachecard::cli
