#pragma once

#include <optional>

#include "cachecard/allocate.hpp"
#include "codec_flags.hpp"

namespace cachecard::cli {

/// How much each token counts, and who says so.
struct TokenLook {
  std::optional<TokenWeights> weights;  ///< absent: all the same, since that was asked for
  bool half_bits = false;               ///< the weights are offsets, as a file says them outright
  std::string whose;                    ///< "from query centroids", ...
};

/// As --weights, --topology and --queries say, else the best that is at hand. Adds to notes.
/// profile: nullptr where there is none.   Errors: invalid_argument, io, geometry_mismatch, the source's
Result<TokenLook> find_look(const CodecFlags& flags, const CacheSource& source, const ModelProfile* profile,
                            const ParallelFor& parallel, std::vector<std::string>& notes);

/// The same without what receivers say: --queries alone.
Result<TokenLook> context_look(const CodecFlags& flags, const CacheSource& source,
                               const ModelProfile* profile, const ParallelFor& parallel,
                               std::vector<std::string>& notes);

}  // namespace cachecard::cli
