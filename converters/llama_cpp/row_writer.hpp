#pragma once

#include <vector>

#include "cachecard/reader.hpp"
#include "row_change.hpp"
#include "state_writer.hpp"

/// The hot path of inject: a card's chunks into the places of a foreign file.
namespace cachecard::llama_cpp {

/// Neighbouring cells that hold consecutive tokens.
struct CellRun {
  std::uint64_t first_token = 0;
  std::uint64_t token_count = 0;
  std::uint64_t first_cell = 0;
};

/// Where the rows of one stream go. Rows of tokens outside its runs are not written.
struct RowTarget {
  std::size_t stream = 0;
  std::uint64_t offset = 0;  ///< of cell 0, or of channel 0
  std::uint64_t cell_count = 0;
  RowForm form;
  bool transposed = false;
  const std::vector<CellRun>* runs = nullptr;  ///< ascending by token
};

struct RowReport {
  std::uint64_t nonfinite_values = 0;
  double max_conversion_loss = 0.0;
};

/// Reads chunk by chunk (the reader digests each), changes rows to the target's form, looks for non-finite
/// values where asked, writes. Memory: options.parallel.width times five of the largest chunk. Values that
/// are to become blocks must be finite whatever options say: no block type holds others. Errors: non_finite
/// (naming layer, stream, token), interrupted, the reader's and the sink's
Result<RowReport> write_rows(const CardReader& card, const std::vector<RowTarget>& targets, RandomSink& sink,
                             const StateWriteOptions& options, bool check_finite);

/// Copies an opaque stream to offset, a piece at a time.
Status write_opaque(const CardReader& card, std::size_t stream_index, std::uint64_t offset, RandomSink& sink);

}  // namespace cachecard::llama_cpp
