#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>
#include <vector>

#include "cache_layout.hpp"
#include "cachecard/reader.hpp"
#include "cachecard/writer.hpp"

/// libtorch's tensors to card and back. Nothing that torch throws leaves these functions.
namespace cachecard::pytorch {

/// Keys and values of one layer, each [1, heads, tokens, head_dim], f32, f16 or bf16, strided or
/// contiguous, on the CPU or another device. A sliding-window layer holds the newest tokens only.
struct LayerTensors {
  at::Tensor key;
  at::Tensor value;
  std::optional<std::uint64_t> first_token;  ///< nullopt: 0, or as the window tells
  std::uint32_t window = 0;                  ///< 0: full attention
};

/// Tensors as a source of a card (write_card). Rows are copied when they are read, from other devices
/// chunk by chunk. Owns: references to the tensors, which must not be written meanwhile.
/// Errors: foreign_input naming layer, found and allowed; limit_exceeded
Result<std::unique_ptr<CacheSource>> tensor_source(std::vector<LayerTensors> layers, CacheFacts facts);

struct TensorOptions {
  std::optional<at::ScalarType> dtype;  ///< of new tensors; nullopt: as stored, f32 for ggml's blocks
  at::Device device = at::kCPU;         ///< of new tensors
  std::uint64_t token_count = ~std::uint64_t{0};  ///< first tokens of the card; default: all
  /// Order of RoPE pairs in the keys; as transformers has most models. nullopt: as the card has it.
  std::optional<RopePairing> pairing = RopePairing::kHalfSplit;
  ParallelFor parallel;
  bool finite = false;  ///< NaN and infinities in the tensors' type are non_finite
};

/// A card as new contiguous tensors. On the CPU values are decoded straight into them.
/// Errors: as card_layers, check_prefix and CardReader::decode; out_of_memory, io (torch's own)
Result<std::vector<LayerTensors>> read_tensors(const CardReader& card, const TensorOptions& options = {});

/// The same into tensors of the caller's: f32, f16 or bf16, any strides, of as many layers, heads,
/// held tokens and channels. On an error their contents are not defined.
/// Errors: also geometry_mismatch naming the layer
Status read_into(const CardReader& card, const std::vector<LayerTensors>& layers,
                 const TensorOptions& options = {});

}  // namespace cachecard::pytorch
