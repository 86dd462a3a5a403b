#pragma once

#include <vector>

#include "cachecard/writer.hpp"
#include "llama_calibrate/llama_module.hpp"

/// What the command has of libllama, in a module that is opened by name.
namespace cachecard::cli {

/// Errors: unsupported_feature, saying how to get it
Result<const llama_calibrate::LlamaModule*> llama_module();

/// A file that a receiver begins with. name: how messages call it. Errors: io, limit_exceeded
Result<llama_calibrate::ProbeText> read_probe(const std::string& path, const std::string& name);

/// Token weights by the KV heads of source: what model looks at while it reads each text behind the context.
/// The cache goes through a temporary card. Errors: those of llama_calibrate::probe and write_card, io,
/// unsupported_feature (no module)
Result<std::vector<TokenWeights>> probe_weights(const CacheSource& source,
                                                const std::vector<llama_calibrate::ProbeText>& texts,
                                                const std::string& model, const ParallelFor& parallel);

}  // namespace cachecard::cli
