#pragma once

#include <string>

#include "cachecard/reader.hpp"
#include "llama_cpp/state_writer.hpp"

namespace cachecard::llama_server {

struct StageOptions {
  std::uint64_t token_count = 0;  ///< prefix of the card; as prefix_of returned it
  bool allow_nonfinite = false;
  ParallelFor parallel;
  std::function<bool(std::uint64_t done, std::uint64_t total)> progress;  ///< false: interrupted
};

/// How many tokens of the card can go into a slot: `wanted` of them, or all where wanted is 0.
/// From the header alone, before a server is asked anything.
/// Errors: partial_card, tokens_unknown, not_restorable, invalid_argument
Result<std::uint64_t> prefix_of(const CardHeader& header, std::uint64_t wanted);

/// Writes the first tokens of a card as a slot file, every digest of the card checked, and reads
/// the file back to its last byte. On an error there is no file.
/// Not fsynced: the server reads the same page cache.
/// Errors: those of write_state and of the reader; interrupted; internal (it does not parse back)
Result<llama_cpp::StateWriteReport> stage_card(const CardReader& card, const llama_cpp::StateTemplate& layout,
                                               const llama_cpp::ModelFacts* model, const std::string& path,
                                               const StageOptions& options);

}  // namespace cachecard::llama_server
