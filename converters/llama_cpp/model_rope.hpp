#pragma once

#include "architectures.hpp"
#include "gguf_model.hpp"

namespace cachecard::llama_cpp {

/// Sets the rope and cell_ext members of facts; needs its geometry. Returns the type that holds for
/// this file. rope_table is set only where every rotated layer uses the same plain frequencies.
/// Errors: io, truncated
Result<RopeType> set_rope_facts(const ByteSource& source, const GgufFile& file,
                                const Architecture& architecture, ModelFacts& facts);

}  // namespace cachecard::llama_cpp
