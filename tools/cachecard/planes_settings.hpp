#pragma once

#include "codec_flags.hpp"

namespace cachecard::cli {

/// The settings of planes, or nothing where exact codecs are wanted.   Errors: invalid_argument, io
Result<std::optional<PlanesOptions>> planes_options(const CodecFlags& flags, const CardHeader& header);
/// For provenance: "" or ", planes 4,3 bits".
std::string describe_planes(const std::optional<PlanesOptions>& planes, const CodecFlags& flags);

}  // namespace cachecard::cli
