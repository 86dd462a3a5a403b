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
  LaneFit();
  void add(std::span<const kernel::StripToken> tokens, std::span<const std::int16_t> index);
  /// Sets level and shape of the strip's lanes. Returns the bits that its symbols will take, as estimated from the sample.
  double fit(std::span<kernel::Lane> lanes) const;

 private:
  static constexpr std::size_t kWindow = 8;    ///< levels that are tried
  static constexpr std::size_t kSample = 256;  ///< tokens of a class in a chunk that are looked at, about

  /// By half of the sample (each says what the other's choice costs), channel, shape and level.
  using Costs =
      std::array<std::array<std::array<std::array<std::uint32_t, kWindow>, 2>, kernel::kStripChannels>, 2>;
  struct OfClass {
    std::vector<Costs> costs;  ///< one, once the class was met
    std::array<std::uint8_t, kernel::kStripChannels> first_level{};
    std::uint64_t seen = 0;
    std::uint64_t sampled = 0;
  };
  void place_windows(OfClass& of, std::span<const std::size_t> sample, std::span<const kernel::StripToken> tokens,
                     std::span<const std::int16_t> index) const;
  std::array<OfClass, 3> classes_;
};

/// Weights of a strip's lanes: how much of a row its reference predicts, less what the reference's own rounding spoils.
class WeightFit {
 public:
  /// values: [token][64]; scale as in quantise.
  void add(std::span<const kernel::StripToken> tokens, std::span<const float> values, std::span<const float> scale);
  void fit(std::span<kernel::Lane> lanes) const;

 private:
  std::array<std::array<double, kernel::kStripChannels>, 3> product_{};
  std::array<std::array<double, kernel::kStripChannels>, 3> square_{};
};

}  // namespace cachecard
