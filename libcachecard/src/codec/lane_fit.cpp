#include "codec/lane_fit.hpp"

#include <algorithm>
#include <cmath>
#include <memory>

namespace cachecard {
namespace {

using kernel::kStripChannels;

constexpr std::int32_t kMostIndex = 1023;  ///< indices beyond are as costly as this one
constexpr std::int32_t kLeastSum = -8;     ///< of level and shift
constexpr std::size_t kSums = 48;          ///< -8 to 38, and one

/// Code length in 1/256 bit by shape, index and level + shift.
struct IndexCosts {
  std::array<std::array<std::array<std::uint16_t, kSums>, 2 * kMostIndex + 1>, 2> of;

  IndexCosts() {
    const kernel::EntropyTables& tables = kernel::entropy_tables();
    for (std::uint32_t shape = 0; shape < 2; ++shape) {
      for (std::int32_t index = -kMostIndex; index <= kMostIndex; ++index) {
        for (std::size_t sum = 0; sum < kSums; ++sum) {
          // lane_table takes levels from 0 on: the rest of the sum is given as a shift.
          const auto table = kernel::lane_table(0, static_cast<std::int32_t>(sum) + kLeastSum, shape);
          const std::int32_t moved = index + (table.low_bits > 0 ? 1 << (table.low_bits - 1) : 0);
          const std::int32_t symbol = std::clamp(moved >> table.low_bits, -kernel::kEscape, kernel::kEscape);
          const auto place = static_cast<std::size_t>((symbol < -kernel::kLargestSymbol ? kernel::kEscape : symbol) +
                                                      kernel::kLargestSymbol);
          of[shape][static_cast<std::size_t>(index + kMostIndex)][sum] =
              static_cast<std::uint16_t>(tables.cost[table.table][place] + 256 * table.low_bits);
        }
      }
    }
  }
};

const IndexCosts& index_costs() {
  static const std::unique_ptr<const IndexCosts> kCosts = std::make_unique<IndexCosts>();
  return *kCosts;
}

/// The mean magnitude of Laplace's tables by level (shift 0); half an octave more a level where raw bits take over.
std::array<float, 32> level_means() {
  std::array<float, 32> means{};
  const kernel::EntropyTables& tables = kernel::entropy_tables();
  for (std::uint32_t level = 0; level < 32; ++level) {
    const auto table = kernel::lane_table(level, 0, 0);
    std::uint64_t sum = 0;
    for (std::uint32_t s = 0; s <= 2 * kernel::kLargestSymbol; ++s) {
      const auto magnitude = static_cast<std::uint32_t>(std::abs(static_cast<std::int32_t>(s) - kernel::kLargestSymbol));
      sum += std::uint64_t{magnitude} * tables.symbols[table.table][s].frequency;
    }
    means[level] = static_cast<float>(sum << table.low_bits) / static_cast<float>(kernel::kTableSlots);
  }
  return means;
}

constexpr std::array<float, 16> half_octaves() {
  std::array<float, 16> powers{};  // 2^(-s/2) for s from -8 to 7
  for (std::size_t i = 0; i < 16; ++i) {
    float p = 16.0f;
    for (std::size_t j = 0; j + 1 < i; j += 2) p *= 0.5f;
    powers[i] = i % 2 == 1 ? p * 0.70710678f : p;
  }
  return powers;
}
constexpr std::array<float, 16> kHalfOctaves = half_octaves();

}  // namespace

LaneFit::LaneFit() = default;

void LaneFit::place_windows(OfClass& of, std::span<const std::size_t> sample, std::span<const kernel::StripToken> tokens,
                            std::span<const std::int16_t> index) const {
  static const std::array<float, 32> kMeans = level_means();
  std::array<float, kStripChannels> sum{};
  for (const std::size_t t : sample) {
    const float unit = kHalfOctaves[static_cast<std::size_t>(tokens[t].shift + 8)];
    for (std::size_t c = 0; c < kStripChannels; ++c) {
      sum[c] += unit * static_cast<float>(std::abs(std::int32_t{index[t * kStripChannels + c]}));
    }
  }
  for (std::size_t c = 0; c < kStripChannels; ++c) {
    const float mean = sum[c] / static_cast<float>(sample.size());
    std::size_t level = 8;
    while (level < 31 && kMeans[level] < mean) ++level;
    of.first_level[c] = static_cast<std::uint8_t>(std::clamp<std::size_t>(level, 4, 28) - 4);
  }
}

void LaneFit::add(std::span<const kernel::StripToken> tokens, std::span<const std::int16_t> index) {
  const IndexCosts& costs = index_costs();
  std::array<std::vector<std::size_t>, 3> of_class;
  for (std::size_t t = 0; t < tokens.size(); ++t) {
    if (tokens[t].coded != 0) of_class[tokens[t].reference].push_back(t);
  }
  for (std::size_t k = 0; k < 3; ++k) {
    if (of_class[k].empty()) continue;
    OfClass& of = classes_[k];
    const std::size_t stride = of_class[k].size() / kSample + 1;
    std::vector<std::size_t> sample;
    for (std::size_t i = 0; i < of_class[k].size(); i += stride) sample.push_back(of_class[k][i]);
    if (of.costs.empty()) {
      of.costs.emplace_back();
      place_windows(of, sample, tokens, index);
    }
    for (std::size_t n = 0; n < sample.size(); ++n) {
      const std::size_t t = sample[n];
      auto& half = of.costs[0][n % 2];
      for (std::size_t c = 0; c < kStripChannels; ++c) {
        const std::int32_t i = std::clamp<std::int32_t>(index[t * kStripChannels + c], -kMostIndex, kMostIndex);
        const auto sum = static_cast<std::size_t>(of.first_level[c] + tokens[t].shift - kLeastSum);
        for (std::size_t shape = 0; shape < 2; ++shape) {
          const std::uint16_t* cost = costs.of[shape][static_cast<std::size_t>(i + kMostIndex)].data() + sum;
          auto& total = half[c][shape];
          for (std::size_t w = 0; w < kWindow; ++w) total[w] += cost[w];
        }
      }
    }
    of.seen += of_class[k].size();
    of.sampled += sample.size();
  }
}

double LaneFit::fit(std::span<kernel::Lane> lanes) const {
  const auto least = [](const auto& costs) {
    return static_cast<std::size_t>(std::min_element(costs.begin(), costs.end()) - costs.begin());
  };
  double bits = 0.0;
  for (std::size_t c = 0; c < lanes.size(); ++c) {
    std::array<double, 2> total{};
    std::array<std::array<std::uint8_t, 3>, 2> level{};
    for (std::size_t shape = 0; shape < 2; ++shape) {
      for (std::size_t k = 0; k < 3; ++k) {
        const OfClass& of = classes_[k];
        if (of.costs.empty()) continue;
        const auto& first = of.costs[0][0][c][shape];
        const auto& second = of.costs[0][1][c][shape];
        std::array<std::uint32_t, kWindow> both{};
        for (std::size_t w = 0; w < kWindow; ++w) both[w] = first[w] + second[w];
        const std::size_t best = least(both);
        level[shape][k] = static_cast<std::uint8_t>(of.first_level[c] + best);
        // The best of a sample flatters it, and half a sample's choice does worse on the other half: the truth is between.
        const double cost = (static_cast<double>(both[best]) + static_cast<double>(first[least(second)] + second[least(first)])) / 2.0;
        total[shape] += cost * (static_cast<double>(of.seen) / static_cast<double>(of.sampled));
      }
    }
    const std::size_t shape = total[1] < total[0] ? 1 : 0;
    lanes[c].shape = static_cast<std::uint8_t>(shape);
    lanes[c].level = level[shape];
    bits += total[shape] / 256.0;
  }
  return bits;
}

void WeightFit::add(std::span<const kernel::StripToken> tokens, std::span<const float> values,
                    std::span<const float> scale) {
  for (std::size_t t = 0; t < tokens.size(); ++t) {
    const kernel::StripToken& token = tokens[t];
    if (token.reference == 0 || token.coded == 0) continue;
    const std::size_t from = t - token.distance;
    if (tokens[from].coded == 0) continue;
    const float* own = values.data() + t * kStripChannels;
    const float* other = values.data() + from * kStripChannels;
    // Each token counts by the square of its steps; the reference brings a rounding error of its own steps.
    const float step = static_cast<float>(token.multiplier) * 0x1p-9f;
    const float other_step = static_cast<float>(tokens[from].multiplier) * 0x1p-9f;
    const float inverse = 1.0f / (step * step);
    const float noise = other_step * other_step * (4096.0f / 12.0f);
    auto& product = product_[token.reference];
    auto& square = square_[token.reference];
    for (std::size_t c = 0; c < scale.size(); ++c) {
      const float energy = other[c] * other[c];
      const float rounding = std::min(noise * scale[c] * scale[c], energy);
      product[c] += static_cast<double>(own[c] * other[c] * inverse);
      square[c] += static_cast<double>((energy + rounding) * inverse);
    }
  }
}

void WeightFit::fit(std::span<kernel::Lane> lanes) const {
  for (std::size_t k = 1; k < 3; ++k) {
    for (std::size_t c = 0; c < lanes.size(); ++c) {
      const double weight = std::floor(8.0 * product_[k][c] / square_[k][c] + 0.5);
      // Neither where nothing is known nor where sums overflowed is there a prediction.
      lanes[c].weight[k] = weight >= 1.0 ? static_cast<std::uint8_t>(std::min(weight, 8.0)) : std::uint8_t{0};
    }
  }
}

}  // namespace cachecard
