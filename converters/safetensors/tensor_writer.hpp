#pragma once

#include <functional>
#include <optional>

#include "tensor_cache.hpp"
#include "torch/card_layers.hpp"

namespace cachecard::safetensors {

struct TensorWriteOptions {
  Naming naming = Naming::kMlx;
  std::optional<DType> dtype;  ///< f32, f16 or bf16; nullopt: each stream's own, f32 for ggml's blocks
  pytorch::DecodeOptions decode;
  /// Called after each tensor with bytes so far and in all; false stops with `interrupted`.
  std::function<bool(std::uint64_t done, std::uint64_t total)> progress;
};

struct TensorWriteReport {
  std::uint64_t file_size = 0;
  std::string dtype;  ///< of layer 0's keys: "F16"
};

/// Writes a card's keys and values as tensors [1, heads, tokens, head_dim]. One forward pass; memory: one
/// tensor. The sink is not committed. Errors: what these files have no place for: partial_card,
/// not_restorable (layers that lack tokens, positions that
///         are not 0, 1, 2, ...), geometry_mismatch (latent, opaque); those of decode and the sink,
///         interrupted
Result<TensorWriteReport> write_safetensors(const CardReader& card, ByteSink& sink,
                                            const TensorWriteOptions& options);

/// What kvcdn keeps beside a file, in <file>.json. source: kvcdn-cli src/local/kv_io.rs KVArtifact
/// Errors: CardReader's
Result<std::string> kvcdn_sidecar(const CardReader& card, const TensorWriteReport& written);

struct KvcdnSidecar {
  std::string model_name;               ///< empty: unknown
  std::string prompt;                   ///< empty: unknown
  std::vector<std::int32_t> token_ids;  ///< empty: unknown
};
/// Holds it against the tensors. Errors: foreign_input, limit_exceeded, io
Result<KvcdnSidecar> read_kvcdn_sidecar(const ByteSource& source, const pytorch::PtCache& tensors);

}  // namespace cachecard::safetensors
