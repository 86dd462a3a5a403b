#pragma once

#include <memory>
#include <string>
#include <vector>

#include "cachecard/writer.hpp"
#include "state_file.hpp"

namespace cachecard::llama_cpp {

/// A parsed state as a source of a card: tokens in position order, rows read on demand.
/// Owns: the parsed state and copies of facts, not the bytes; source must outlive it.
/// Errors: foreign_input (geometry does not fit the model; names what to give), invalid_argument
Result<std::unique_ptr<CacheSource>> state_source(const ByteSource& source, StateFile state,
                                                  const ModelFacts& model);

/// What a person should know about the card that state_source would make, one line each: tokens
/// unknown, not a prefix, kept opaque and why.
std::vector<std::string> state_notes(const StateFile& state, const ModelFacts& model);

}  // namespace cachecard::llama_cpp
