#pragma once

#include <string>
#include <vector>

#include "cachecard/profile.hpp"
#include "span_file.hpp"

namespace cachecard::cli {

bool is_value(const StreamRecord& stream);

/// What errors of each layer's keys and values cost: lines A:B,K,V of a file. Errors: io, invalid_argument
Result<std::vector<Pair<double>>> read_layer_costs(const std::string& path, std::uint32_t layer_count);

/// A model profile, which must be of the cache's model: by weights where both are known, else by source.
/// Errors: io, the reader's, model_mismatch naming the field, geometry_mismatch
Result<ModelProfile> open_profile(const std::string& path, const CardHeader& header);

}  // namespace cachecard::cli
