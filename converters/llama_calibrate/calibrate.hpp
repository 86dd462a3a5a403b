#pragma once

#include <functional>
#include <string>
#include <vector>

#include "cachecard/profile.hpp"

/// Measures a model once, in libllama: what errors of its cache cost, how its queries follow from its keys and values.
namespace cachecard::llama_calibrate {

struct CalibrationText {
  std::string name;
  std::string text;
};

struct CalibrateOptions {
  std::string model_path;         ///< GGUF
  std::string digest_folder;      ///< keeps digests of weights; empty: none
  std::string scratch_folder;     ///< for the F32 copy, which is gone at the end
  bool own_weights = false;       ///< no F32 copy: a quantised model's own rounding then counts as cost
  std::uint32_t window = 1300;    ///< tokens at once while queries are observed
  std::uint32_t context = 640;    ///< tokens of context while costs are measured
  std::uint32_t scored = 96;      ///< tokens behind it, whose distributions are compared
  std::size_t cost_windows = 10;  ///< pieces of context + scored tokens in which costs are measured, of all texts in turn
  std::uint32_t rank = 64;        ///< of the map from keys and values to queries
  std::uint32_t centroids = 16;   ///< of each head's queries
  double step = 1.0;              ///< of the disturbances, over a stream's root mean square
  std::uint32_t first_layer = 0;  ///< layers before it are left out
  std::uint32_t end_layer = ~std::uint32_t{0};
  std::uint32_t threads = 1;
  ParallelFor parallel;
  /// Tokens decoded, of all; false stops.
  std::function<bool(std::uint64_t done, std::uint64_t total)> progress;
  std::function<void(const std::string& line)> detail;  ///< what is going on, a line each
};

struct CalibrateReport {
  std::vector<std::uint64_t> text_tokens;  ///< by text
  std::uint64_t observed_tokens = 0;
  std::size_t cost_windows = 0;            ///< in which costs were measured
  std::uint64_t disturbances = 0;          ///< in each of those windows
  double undisturbed = 0.0;                ///< nats of KL where the cache is put back as it was, subtracted from costs
  double least = 0.0, median = 0.0, most = 0.0;  ///< nats of KL of the disturbances, over all windows
  double explained = 0.0;                  ///< of the queries' variance, by the map, on the calibrating tokens; mean of layers
  double seconds = 0.0;
};

struct Calibration {
  ModelProfile profile;
  CalibrateReport report;
};

/// Tokens that a text must have.
std::uint32_t least_tokens(const CalibrateOptions& options);

/// Memory: the F32 copy (four bytes a parameter), caches and sums of all layers.
/// Errors: invalid_argument (no text, a text too short, layers that are not there), unsupported_feature (a model whose cache is not
///         plain keys and values with one rotary embedding), read_model's, io, out_of_memory, interrupted
Result<Calibration> calibrate(const std::vector<CalibrationText>& texts, const CalibrateOptions& options);

}  // namespace cachecard::llama_calibrate
