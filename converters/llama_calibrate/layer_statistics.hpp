#pragma once

#include "cachecard/profile.hpp"
#include "linear_map.hpp"
#include "observe.hpp"

namespace cachecard::llama_calibrate {

/// What a layer's part of a profile is made of, summed over texts.
class LayerStatistics {
 public:
  /// samples: queries of each head that are kept for centroids, at most.
  LayerStatistics(const ObservedLayer& shape, std::uint64_t expected_tokens, std::uint64_t samples);

  /// Tokens from the window's 16th on: the first ones are unlike all others.
  void add(const ObservedLayer& observed);

  struct Wanted {
    std::uint32_t rank = 64;
    std::uint32_t centroids = 16;
  };
  /// Everything but costs, which are 0.   Needs: add was called with more than 16 tokens
  ProfileLayer profile(const Wanted& wanted) const;
  /// Of the queries' variance, by the map as a profile holds it.
  double explained(const ProfileLayer& layer) const;

 private:
  ProfileRecord record_;
  std::uint32_t pair_count_;
  std::uint64_t every_;      ///< one query in so many is a sample
  std::uint64_t token_ = 0;  ///< tokens seen
  MapSums sums_;
  std::vector<float> samples_;  ///< [token][query head][key_dim]
};

}  // namespace cachecard::llama_calibrate
