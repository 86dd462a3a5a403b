#pragma once

#include <optional>
#include <string>
#include <vector>

#include "pt_file.hpp"

namespace cachecard::pytorch {

/// Where the cache's tensors stand among a pickle's values.
struct PtStructure {
  struct Layer {
    PickleId key = kNoPickle;
    PickleId value = kNoPickle;
    std::optional<std::uint64_t> held_of;  ///< tokens seen so far, of which the layer holds the newest
    std::uint64_t window = 0;
  };
  std::vector<Layer> layers;
  std::optional<PickleId> token_ids;
  std::optional<PickleId> positions;
  std::optional<PickleId> first_token;  ///< list, one for each layer
  std::optional<PickleId> window;       ///< list, one for each layer
  std::optional<std::string> rope_state;
  std::optional<std::string> rope_pairing;
  std::vector<std::string> unused;
};

/// Errors: foreign_input, limit_exceeded
Result<PtStructure> find_structure(const PickleValues& values, PickleId root);

}  // namespace cachecard::pytorch
