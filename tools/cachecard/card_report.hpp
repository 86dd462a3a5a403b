#pragma once

#include <string>

#include "output.hpp"

namespace cachecard::cli {

/// What prologue, header, trailer and summary say, for people and as JSON.
std::string facts_text(const CardFacts& facts, const std::string& name);
Json facts_json(const CardFacts& facts);

/// Which of a card's sections to show beside its facts.
struct DetailOptions {
  bool streams = false;
  bool map = false;
  bool tokens = false;
  bool sections = false;
  bool provenance = false;
  bool source_layout = false;

  bool any() const { return streams || map || tokens || sections || provenance || source_layout; }
};

/// Those sections, as text blocks; or added to an object. Errors: the reader's
Result<std::string> details_text(const CardReader& card, const DetailOptions& options);
Status add_details(const CardReader& card, const DetailOptions& options, Json& object);

}  // namespace cachecard::cli
