#pragma once

#include "architectures.hpp"
#include "gguf_model.hpp"

namespace cachecard::llama_cpp {

/// Identity from a GGUF file's metadata, the weights digest aside: only what the file declares.
/// architecture may be null (unknown). Spec: converters/llama_cpp/IDENTITY.md
/// Errors: io, truncated
Result<Identity> model_identity(const ByteSource& source, const GgufFile& file,
                                const Architecture* architecture, RopeType rope_type);

/// "org/name" or "org/name@revision" of a Hugging Face address, else the address itself.
std::string normalize_source(std::string_view address);

}  // namespace cachecard::llama_cpp
