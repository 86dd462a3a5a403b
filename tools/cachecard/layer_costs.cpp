#include "layer_costs.hpp"

#include <cmath>

namespace cachecard::cli {
namespace {

std::optional<double> cost_of(std::string_view text) {
  const auto found = number<double>(text);
  return found && std::isfinite(*found) && *found >= 0.0 ? found : std::nullopt;
}

}  // namespace

bool is_value(const StreamRecord& stream) { return stream.stream == static_cast<std::uint8_t>(StreamKind::kValue); }

Result<std::vector<Pair<double>>> read_layer_costs(const std::string& path, std::uint32_t layer_count) {
  return read_spans<double>({"--sensitivity", "layers", "numbers from 0 on", path, layer_count, &cost_of});
}

}  // namespace cachecard::cli
