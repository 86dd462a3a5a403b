#pragma once

#include <string>
#include <vector>

#include "cachecard/card.hpp"
#include "span_file.hpp"

namespace cachecard::cli {

bool is_value(const StreamRecord& stream);

/// What errors of each layer's keys and values cost: lines A:B,K,V of a file. Errors: io, invalid_argument
Result<std::vector<Pair<double>>> read_layer_costs(const std::string& path, std::uint32_t layer_count);

}  // namespace cachecard::cli
