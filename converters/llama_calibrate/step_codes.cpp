#include "step_codes.hpp"

#include <algorithm>
#include <cmath>

namespace cachecard::llama_calibrate {
namespace {

constexpr double kOne = 128.0;  ///< code of the factor 1
constexpr double kOctave = 16.0;
constexpr double kReach = 2.0;  ///< octaves to either side

}  // namespace

std::vector<std::uint8_t> key_step_codes(std::span<const double> query_energy, std::uint32_t kv_head_count,
                                         std::uint32_t key_dim, std::uint32_t pair_count) {
  std::vector<double> energy(std::size_t{kv_head_count} * key_dim);
  const std::size_t group = query_energy.size() / energy.size();  // query heads that read one KV head
  for (std::size_t i = 0; i < query_energy.size(); ++i) {
    energy[i / (group * key_dim) * key_dim + i % key_dim] += query_energy[i];
  }
  for (std::size_t head = 0; head < kv_head_count; ++head) {
    for (std::size_t c = 0; c < std::size_t{2} * pair_count; c += 2) {
      double* pair = &energy[head * key_dim + c];
      pair[0] = pair[1] = 0.5 * (pair[0] + pair[1]);
    }
  }
  // A channel that no query reads counts as one of far below the rest, not as none.
  const double least = 1e-9 * *std::max_element(energy.begin(), energy.end());
  double octaves = 0.0;
  for (double& e : energy) {
    e = std::log2(std::max({e, least, 1e-300}));
    octaves += e / static_cast<double>(energy.size());
  }
  std::vector<std::uint8_t> codes;
  for (const double e : energy) {
    codes.push_back(static_cast<std::uint8_t>(std::lround(kOne + kOctave * std::clamp(0.5 * (octaves - e), -kReach, kReach))));
  }
  return codes;
}

float step_factor(std::uint8_t code) { return static_cast<float>(std::exp2((code - kOne) / kOctave)); }

}  // namespace cachecard::llama_calibrate
