#pragma once

#include "cachecard/card.hpp"
#include "state_file.hpp"

namespace cachecard::llama_cpp {

/// What a card tells about its model: enough to parse a state of the same model.
ModelFacts facts_of_card(const CardHeader& header);

}  // namespace cachecard::llama_cpp
