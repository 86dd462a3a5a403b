#pragma once

#include <optional>
#include <string>

#include "cachecard/edit.hpp"
#include "writer/chunk_jobs.hpp"

/// Whether a state continues a card. spec: FORMAT.md#extend
namespace cachecard {

struct IdentityMatch {
  std::vector<FieldVerdict> fields;
  Identity identity;  ///< of the card that both make: what both say, and what one says where that is no question
};

/// As match_identity, but a fact that neither side has is no obstacle: the new card does not have it either.
/// Errors: model_mismatch, identity_unknown, invalid_argument for a name that is no override
Result<IdentityMatch> match_base(const Identity& base, const Identity& state, const std::vector<std::string>& allow);

/// Streams that are not opaque must be the same, but for their spans.   Errors: geometry_mismatch, partial_card
Status match_geometry(const CardHeader& base, const CardHeader& state);

/// The table that a state's keys are coded with: its own, or the card's where it has none.
/// Errors: model_mismatch where they are not the same
Result<std::optional<RopeTable>> match_rope_table(const CardReader& base, const RopeTable* state);

/// Errors: tokens_unknown, the reader's
struct TokenList {
  std::vector<std::int32_t> ids;
  std::vector<std::int32_t> positions;
};
Result<TokenList> tokens_of(const CardReader& base);
/// The first token of the card that the state does not have, or has otherwise.
std::optional<Parting> find_parting(const TokenList& base, const CacheSource& state);

}  // namespace cachecard
