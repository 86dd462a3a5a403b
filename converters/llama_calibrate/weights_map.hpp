#pragma once

#include "llama_calibrate/calibrate.hpp"

/// What a model's file says without calibration: its weights, and a short text that it reads, always the same.
namespace cachecard::llama_calibrate {

struct WeightsMapOptions {
  std::string model_path;     ///< GGUF
  std::string digest_folder;  ///< keeps digests of weights; empty: none
  std::uint32_t rank = 64;    ///< of the map
  std::uint32_t threads = 1;
  ParallelFor parallel;
};

/// A profile that has no costs: a map from keys and values to queries, steps by query energy, and 16 centroids a head where the
/// model read 256 tokens or more (640, fewer where it is so large that they would take long).
/// A layer's input is taken for white behind its norm; the map is then least squares: Wq D Wkv' (Wkv D Wkv')^-1, D the norm's
/// weights squared, with biases. Tokens seen are added to it as if the weights were 200 of them.
/// Memory: one layer's projections as f32, twice, for each task.
/// Errors: read_model's, unsupported_feature (as calibrate; keys or queries that pass a norm of their own; projections that are
///         not found), foreign_input, io, out_of_memory
Result<ModelProfile> profile_of_weights(const WeightsMapOptions& options);

}  // namespace cachecard::llama_calibrate
