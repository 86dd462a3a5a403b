#pragma once

#include <optional>
#include <vector>

#include "cachecard/card.hpp"
#include "h5_read.hpp"

namespace cachecard::hdf5 {

/// What stands beside the values of a file, as far as a card can be made of it.
struct FileFacts {
  CardHeader header;  ///< streams as the file lists them: of the card that it was made from
  std::vector<std::int32_t> token_ids;
  std::vector<std::int32_t> positions;
  std::optional<RopeTable> rope_table;
  std::string text;                    ///< of the first segment
  std::vector<std::string> left_out;   ///< what has no place in a card made from here
};

/// Counts are held to limits before anything is read that they size.
/// Errors: foreign_input, limit_exceeded, corrupt, those of the header and the source
Result<FileFacts> read_file_facts(const H5Node& root, const Limits& limits = {});

}  // namespace cachecard::hdf5
