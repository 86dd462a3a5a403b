#pragma once

#include <optional>
#include <string_view>

#include "cachecard/records.hpp"

namespace cachecard::pytorch {

/// The channel order of transformers' keys for a model whose GGUF file has the given one: where
/// llama.cpp pairs neighbours, most of its converters permuted the weights, some did not.
/// nullopt: not known for that architecture.
std::optional<RopePairing> transformers_pairing(std::string_view architecture, RopePairing gguf_pairing);

}  // namespace cachecard::pytorch
