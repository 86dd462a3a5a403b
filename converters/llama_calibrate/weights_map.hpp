#pragma once

#include "llama_calibrate/calibrate.hpp"

/// Queries from keys and values by the model's weights alone: no text is read.
namespace cachecard::llama_calibrate {

struct WeightsMapOptions {
  std::string model_path;     ///< GGUF
  std::string digest_folder;  ///< keeps digests of weights; empty: none
  std::uint32_t rank = 64;    ///< of the map
  std::uint32_t threads = 1;
  ParallelFor parallel;
};

/// A profile that has a map from keys and values to queries and nothing else: costs are 0, there are no centroids.
/// A layer's input is taken for white behind its norm; the map is then least squares: Wq D Wkv' (Wkv D Wkv')^-1, D the norm's
/// weights squared, with biases.
/// Memory: one layer's projections as f32, twice, for each task.
/// Errors: read_model's, unsupported_feature (as calibrate; keys or queries that pass a norm of their own; projections that are
///         not found), foreign_input, io, out_of_memory
Result<ModelProfile> profile_of_weights(const WeightsMapOptions& options);

}  // namespace cachecard::llama_calibrate
