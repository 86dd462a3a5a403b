#pragma once

#include <array>
#include <span>
#include <vector>

#include "codec/strip_encoder.hpp"

/// Which table each lane of a strip takes, by code length. spec: CODECS.md#entropy-encode
namespace cachecard {

/// Learns levels and shapes from quantised chunks of one strip.
class LaneFit {
 public:
  /// sample: about how many tokens of a class in a chunk are looked at.   phase: which; strips that look at others have
  /// errors that cancel out.
  explicit LaneFit(std::size_t sample, std::size_t phase) : sample_(sample), phase_(phase) {}
  void add(std::span<const kernel::StripToken> tokens, std::span<const std::int16_t> index);
  /// Sets level and shape of the strip's lanes. Returns the bits that its symbols will take, as estimated from the sample.
  double fit(std::span<kernel::Lane> lanes) const;

 private:
  static constexpr std::size_t kFirstSample = 64;  ///< of the sample, where a window is placed

  /// As CostSums, of all tokens of the chunks: a chunk's sample counts for as many tokens as the chunk has.
  using Totals = std::array<std::array<std::array<std::array<double, kernel::kCostWindow>, 2>, kernel::kStripChannels>, 2>;
  struct OfClass {
    std::vector<Totals> costs;  ///< one, once the class was met
    std::array<std::uint8_t, kernel::kStripChannels> first_level{};
  };
  static void add_up(const kernel::CostSums& sums, double share, Totals& totals);
  static void place_windows(OfClass& of, std::span<const kernel::CostToken> sample, std::span<const std::int16_t> index);
  std::size_t sample_;
  std::size_t phase_;
  std::array<OfClass, 3> classes_;
};

/// Weights of a strip's lanes: how much of a row its reference predicts, less what the reference's own rounding spoils.
class WeightFit {
 public:
  /// scale: as in quantise.
  void add(std::span<const kernel::StripToken> tokens, const kernel::StripValues& values, std::span<const float> scale);
  void fit(std::span<kernel::Lane> lanes) const;

 private:
  kernel::WeightSums sums_;
};

}  // namespace cachecard
