#pragma once

#include <functional>
#include <string>
#include <vector>

#include "cachecard/reader.hpp"

namespace cachecard::hdf5 {

struct H5WriteOptions {
  bool coded = false;     ///< the card's own sections, which become the same card again; else values
  int deflate_level = 1;  ///< of values, after the byte shuffle: 0 (neither) to 9
  ParallelFor parallel;
  /// Called after each piece with tokens' bytes so far and in all; false stops with `interrupted`.
  std::function<bool(std::uint64_t done, std::uint64_t total)> progress;
};

struct H5WriteReport {
  std::uint64_t value_bytes = 0;       ///< of all values before deflate, or of the sections
  std::vector<std::string> left_out;   ///< sections that the decoded form does not carry
};

/// Writes a card as an HDF5 file. Memory: one chunk for each task, decoded. The sink is not committed.
/// Errors: the card's and the sink's, interrupted.   Spec: HDF5.md
Result<H5WriteReport> write_h5(const CardReader& card, RandomSink& sink, const H5WriteOptions& options);

}  // namespace cachecard::hdf5
