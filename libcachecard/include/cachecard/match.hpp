#pragma once

#include <string>
#include <vector>

#include "cachecard/card.hpp"

namespace cachecard {

/// spec: COMPATIBILITY.md#verdicts
enum class Verdict : std::uint8_t { kEqual, kCompatible, kCompatibleWithLoss, kDifferent, kUnknown };
std::string_view name_of(Verdict verdict) noexcept;

struct FieldVerdict {
  std::string field;         ///< identity field's name
  Verdict verdict = Verdict::kUnknown;
  std::string card_value;    ///< as a person reads it; "unknown" where absent
  std::string target_value;
  std::string override_name; ///< what --allow would take, or empty where nothing allows it
  bool overridden = false;
};

struct MatchReport {
  std::vector<FieldVerdict> fields;
  bool accepted = false;
  /// First refusal in field order (model_mismatch or identity_unknown), ok where accepted.
  Error error;
};

/// Compares a card's identity with a target's field by field. `allow` holds override names.
/// Unknown is never a match. Errors: invalid_argument for a name that is no override
Result<MatchReport> match_identity(const Identity& card, const Identity& target,
                                   const std::vector<std::string>& allow);

/// Names that match_identity takes in `allow`, with what each one allows.
struct OverrideInfo {
  std::string_view name;
  std::string_view meaning;
};
std::span<const OverrideInfo> overrides() noexcept;

}  // namespace cachecard
