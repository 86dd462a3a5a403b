#pragma once

#include <cstdint>
#include <vector>

#include "cachecard/profile.hpp"
#include "linear_map.hpp"

namespace cachecard::llama_calibrate {

struct Centroids {
  Rows points;                ///< [centroid][channel]
  std::vector<float> shares;  ///< of the points nearest each, 1 in all
};

/// K-means from centroids drawn among the points, no point twice while there are others. The same seed and points give the same
/// centroids. One that no point is nearest to keeps its place, with share 0.   Needs: one point or more
Centroids k_means(const RowsRef& points, std::size_t count, std::size_t iterations, std::uint64_t seed);

/// Sets centroids of each query head, and their number.   queries: [token][head][key_dim], one row or more; layer: with its record
void set_centroids(const RowsRef& queries, std::uint32_t count, ProfileLayer& layer);

}  // namespace cachecard::llama_calibrate
