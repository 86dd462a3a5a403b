#pragma once

#include <string>

#include "cachecard/profile.hpp"

namespace cachecard::cli {

/// Where a profile made of a GGUF file's weights is kept between commands, beside digests: by the weights' digest, so a file that
/// changed has another. Empty: nowhere (no cache folder, or weights whose digest is not known).
std::string kept_profile_path(const std::string& model);

/// Errors: io, the reader's. A file that cannot be read is made anew by whoever calls.
Result<ModelProfile> read_kept_profile(const std::string& path);
/// Nothing is said where it fails: a profile that is not kept costs time, nothing else.
void keep_profile(const std::string& path, const ModelProfile& profile);

}  // namespace cachecard::cli
