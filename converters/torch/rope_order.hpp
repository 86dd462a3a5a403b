#pragma once

#include <optional>
#include <string_view>

#include "cachecard/reader.hpp"

namespace cachecard::pytorch {

/// The channel order of transformers' keys for a model whose GGUF file has the given one: where
/// llama.cpp pairs neighbours, most of its converters permuted the weights, some did not.
/// nullopt: not known for that architecture.
std::optional<RopePairing> transformers_pairing(std::string_view architecture, RopePairing gguf_pairing);

/// The rotated channels of a key head.
struct RotatedSpan {
  std::uint32_t offset = 0;
  std::uint32_t width = 0;
};
/// Errors: identity_unknown where the card does not say how many channels rotate
Result<RotatedSpan> rotated_span(const CardReader& card, const StreamRecord& stream);

/// Moves the channels of keys in memory from one order of RoPE pairs to the other.
/// Needs: f32, f16 or bf16; from and to interleaved or half_split
void reorder_pairs(const StreamRecord& stream, RotatedSpan span, std::uint64_t token_count, RopePairing from,
                   RopePairing to, const DecodeTarget& target);

}  // namespace cachecard::pytorch
