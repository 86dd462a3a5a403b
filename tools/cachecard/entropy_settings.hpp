#pragma once

#include "codec_flags.hpp"

namespace cachecard::cli {

/// The settings of entropy. Notes say whose look at the tokens counts.   Errors: invalid_argument, io, model_mismatch, geometry_mismatch
Result<EntropyOptions> entropy_options(const CodecFlags& flags, const CacheSource& source, const ParallelFor& parallel,
                                       CodecNotes& notes);

}  // namespace cachecard::cli
