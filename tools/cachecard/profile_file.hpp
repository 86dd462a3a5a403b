#pragma once

#include <string>

#include "cachecard/profile.hpp"

namespace cachecard::cli {

/// A model profile, which must be of the cache's model: by weights where both are known, else by source. Of a GGUF file what
/// its weights say: how queries follow from keys and values, but no costs.
/// Errors: io, the reader's, model_mismatch naming the field, geometry_mismatch; of a GGUF those of profile_of_weights
Result<ModelProfile> open_profile(const std::string& path, const CardHeader& header, const ParallelFor& parallel);

/// What a GGUF file's weights say, without the flag's name in its errors.
Result<ModelProfile> profile_of_weights(const std::string& model, const CardHeader& header, const ParallelFor& parallel);

bool is_gguf_file(const std::string& path);

}  // namespace cachecard::cli
