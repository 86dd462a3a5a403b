#include "codec/lane_fit.hpp"

#include <algorithm>
#include <cmath>
#include <memory>

namespace cachecard {
namespace {

using kernel::kStripChannels;

/// Code length in 1/256 bit by index, shape and level + shift.
struct IndexCosts {
  std::array<std::uint16_t, (2 * kernel::kMostCostIndex + 1) * 2 * kernel::kCostSums> of;

  IndexCosts() {
    const kernel::EntropyTables& tables = kernel::entropy_tables();
    auto cost = of.begin();
    for (std::int32_t index = -kernel::kMostCostIndex; index <= kernel::kMostCostIndex; ++index) {
      for (std::uint32_t shape = 0; shape < 2; ++shape) {
        for (std::size_t sum = 0; sum < kernel::kCostSums; ++sum) {
          // lane_table takes levels from 0 on: the rest of the sum is given as a shift.
          const auto table = kernel::lane_table(0, static_cast<std::int32_t>(sum) + kernel::kLeastCostSum, shape);
          const std::int32_t moved = index + (table.low_bits > 0 ? 1 << (table.low_bits - 1) : 0);
          const std::int32_t symbol = std::clamp(moved >> table.low_bits, -kernel::kEscape, kernel::kEscape);
          const auto place = static_cast<std::size_t>((symbol < -kernel::kLargestSymbol ? kernel::kEscape : symbol) +
                                                      kernel::kLargestSymbol);
          *cost++ = static_cast<std::uint16_t>(tables.cost[table.table][place] + 256 * table.low_bits);
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

void LaneFit::place_windows(OfClass& of, std::span<const kernel::CostToken> sample, std::span<const std::int16_t> index) {
  static const std::array<float, 32> kMeans = level_means();
  const std::size_t stride = sample.size() / kFirstSample + 1;
  std::array<float, kStripChannels> sum{};
  std::size_t count = 0;
  for (std::size_t n = 0; n < sample.size(); n += stride, ++count) {
    const float unit = kHalfOctaves[static_cast<std::size_t>(sample[n].sum)];
    const std::int16_t* own = index.data() + sample[n].token * kStripChannels;
    for (std::size_t c = 0; c < kStripChannels; ++c) sum[c] += unit * static_cast<float>(std::abs(std::int32_t{own[c]}));
  }
  for (std::size_t c = 0; c < kStripChannels; ++c) {
    const float mean = sum[c] / static_cast<float>(count);
    std::size_t level = 8;
    while (level < 31 && kMeans[level] < mean) ++level;
    of.first_level[c] = static_cast<std::uint8_t>(std::clamp<std::size_t>(level, 4, 28) - 4);
  }
}

void LaneFit::add(std::span<const kernel::StripToken> tokens, std::span<const std::int16_t> index) {
  std::array<std::size_t, 3> count{};
  for (const kernel::StripToken& token : tokens) count[token.reference] += token.coded;
  std::array<std::vector<kernel::CostToken>, 3> samples;
  std::array<std::size_t, 3> left{};  // tokens of the class until the next of the sample
  for (std::size_t k = 0; k < 3; ++k) left[k] = std::min(phase_ % (count[k] / sample_ + 1), count[k] / 2);
  for (std::size_t t = 0; t < tokens.size(); ++t) {
    const std::size_t k = tokens[t].reference;
    if (tokens[t].coded == 0 || left[k]-- > 0) continue;
    samples[k].push_back({static_cast<std::uint32_t>(t), tokens[t].shift - kernel::kLeastCostSum});
    left[k] = count[k] / sample_;
  }
  for (std::size_t k = 0; k < 3; ++k) {
    if (count[k] == 0) continue;
    OfClass& of = classes_[k];
    if (of.costs.empty()) {
      of.costs.emplace_back();
      place_windows(of, samples[k], index);
    }
    kernel::CostSums sums{};
    kernel::entropy_kernels().add_costs(index_costs().of.data(), samples[k], index.data(), of.first_level.data(), sums);
    add_up(sums, static_cast<double>(count[k]) / static_cast<double>(samples[k].size()), of.costs[0]);
  }
}

void LaneFit::add_up(const kernel::CostSums& sums, double share, Totals& totals) {
  for (std::size_t half = 0; half < 2; ++half) {
    for (std::size_t c = 0; c < kStripChannels; ++c) {
      for (std::size_t shape = 0; shape < 2; ++shape) {
        for (std::size_t w = 0; w < kernel::kCostWindow; ++w) totals[half][c][shape][w] += share * sums[half][c][shape][w];
      }
    }
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
        std::array<double, kernel::kCostWindow> both{};
        for (std::size_t w = 0; w < kernel::kCostWindow; ++w) both[w] = first[w] + second[w];
        const std::size_t best = least(both);
        level[shape][k] = static_cast<std::uint8_t>(of.first_level[c] + best);
        // The best of a sample flatters it by as much as it costs elsewhere, and a half's choice costs twice that on the other.
        const double crossed = first[least(second)] + second[least(first)];
        total[shape] += (both[best] + 2.0 * crossed) / 3.0;
      }
    }
    const std::size_t shape = total[1] < total[0] ? 1 : 0;
    lanes[c].shape = static_cast<std::uint8_t>(shape);
    lanes[c].level = level[shape];
    bits += total[shape] / 256.0;
  }
  return bits;
}

void WeightFit::add(std::span<const kernel::StripToken> tokens, const kernel::StripValues& values,
                    std::span<const float> scale) {
  std::array<float, kStripChannels> squared{};
  for (std::size_t c = 0; c < scale.size(); ++c) squared[c] = scale[c] * scale[c];
  kernel::entropy_kernels().add_products(tokens, values, squared.data(), sums_);
}

void WeightFit::fit(std::span<kernel::Lane> lanes) const {
  for (std::size_t k = 1; k < 3; ++k) {
    for (std::size_t c = 0; c < lanes.size(); ++c) {
      const double weight = std::floor(8.0 * sums_.product[k][c] / sums_.square[k][c] + 0.5);
      // Neither where nothing is known nor where sums overflowed is there a prediction.
      lanes[c].weight[k] = weight >= 1.0 ? static_cast<std::uint8_t>(std::min(weight, 8.0)) : std::uint8_t{0};
    }
  }
}

}  // namespace cachecard
