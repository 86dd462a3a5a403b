#include <algorithm>
#include <array>
#include <cmath>

#include "cachecard/allocate.hpp"

namespace cachecard {
namespace {

constexpr double kMixed = 0.05;
/// Thirds of an octave: weights are 2^(offset / 1.2), their squares 2^(5 offset / 3), the same on every machine.
constexpr std::array<double, 3> kThirds{1.0, 0x1.428a2f98d728bp+0, 0x1.965fea53d6e3dp+0};
constexpr int kLeastOffset = -6;
constexpr double kLeastCost = 1e-3;

/// 2^((k - 1/2) / 1.2) for k = -5 to 6: where the offset becomes k.
constexpr std::array<double, 12> kBorders{
    0x1.55b8108f0ec5cp-5, 0x1.306fe0a31b715p-4, 0x1.0f38f92d97962p-3, 0x1.e3437e7101343p-3, 0x1.ae89f995ad3adp-2,
    0x1.7f910d768cfb0p-1, 0x1.55b8108f0ec5ep+0, 0x1.306fe0a31b715p+1, 0x1.0f38f92d97963p+2, 0x1.e3437e7101345p+2,
    0x1.ae89f995ad3adp+3, 0x1.7f910d768cfb3p+4};

}  // namespace

std::vector<float> step_gains(std::span<const double> costs) {
  std::vector<float> gains(costs.size(), 1.0f);
  const double most = costs.empty() ? 0.0 : *std::max_element(costs.begin(), costs.end());
  if (!(most > 0.0)) return gains;
  for (std::size_t i = 0; i < costs.size(); ++i) {
    const double fourth = std::sqrt(std::sqrt(most / std::max(costs[i], kLeastCost * most)));
    gains[i] = static_cast<float>(fourth * std::sqrt(fourth));  // roots alone: the same on every machine
  }
  return gains;
}

void weight_offsets(std::span<const float> weights, std::span<std::int8_t> out) {
  double sum = 0.0;
  for (const float weight : weights) sum += double{weight};
  const double mean = sum / static_cast<double>(std::max<std::size_t>(1, weights.size()));
  const bool says = std::isfinite(mean) && mean > 0.0;
  for (std::size_t t = 0; t < out.size(); ++t) {
    out[t] = 0;
    if (!says) continue;
    const double mixed = (1.0 - kMixed) * double{weights[t]} / mean + kMixed;
    int passed = 0;
    for (const double border : kBorders) passed += mixed >= border ? 1 : 0;  // no search: nothing to mispredict
    out[t] = static_cast<std::int8_t>(kLeastOffset + passed);
  }
}

double offsets_gain(std::span<const std::int8_t> offsets, std::uint64_t token_count) {
  if (offsets.empty() || token_count == 0) return 0.0;
  double all = 0.0;
  const std::size_t uses = offsets.size() / token_count;
  for (std::size_t use = 0; use < uses; ++use) {
    double sum = 0.0;
    double logs = 0.0;
    for (const std::int8_t offset : offsets.subspan(use * token_count, token_count)) {
      sum += std::ldexp(1.0, offset);
      logs += offset;
    }
    const auto count = static_cast<double>(token_count);
    all += 10.0 * std::log10(sum / count) - 10.0 * std::log10(2.0) * logs / count;
  }
  return all / static_cast<double>(uses);
}

double offsets_error(std::span<const std::int8_t> offsets) {
  double weighted = 0.0;
  double all = 0.0;
  for (const std::int8_t offset : offsets) {
    const int thirds = 5 * offset;
    const int octaves = (thirds + 3 * 64) / 3 - 64;
    const double square = std::ldexp(kThirds[static_cast<std::size_t>(thirds - 3 * octaves)], octaves);
    all += square;
    weighted += std::ldexp(square, -offset);
  }
  return all > 0.0 ? weighted / all : 1.0;
}

double relative_step_square(double step) { return step * step / (1.0 + step * step / 12.0); }

TokenWeights recency_weights(std::uint64_t token_count) {
  TokenWeights weights{1, token_count, std::vector<float>(token_count)};
  // Attention falls with distance about as its square root does, whatever the model.
  for (std::size_t t = 0; t < token_count; ++t) {
    weights.values[t] = static_cast<float>(1.0 / std::sqrt(static_cast<double>(token_count - t) + 16.0));
  }
  return weights;
}

std::vector<std::int8_t> recency_offsets(const CardHeader& header) {
  const std::size_t uses = BitWidthMap::first_use(header, header.streams.size());
  const TokenWeights weights = recency_weights(header.token_count);
  std::vector<std::int8_t> row(header.token_count);
  weight_offsets(weights.values, row);
  std::vector<std::int8_t> offsets;
  offsets.reserve(uses * row.size());
  for (std::size_t use = 0; use < uses; ++use) offsets.insert(offsets.end(), row.begin(), row.end());
  return offsets;
}

}  // namespace cachecard
