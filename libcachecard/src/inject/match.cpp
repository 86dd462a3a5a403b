#include "cachecard/match.hpp"

#include <algorithm>
#include <array>

namespace cachecard {
namespace {

using F = IdentityField;

// spec: COMPATIBILITY.md#overrides
constexpr std::array kOverrides{
    OverrideInfo{"weights-quantization", "same source, other quantisation of the weights"},
    OverrideInfo{"weights-container", "same source and quantisation, other file"},
    OverrideInfo{"weights-unknown", "same source, but one side's weights are not known"},
    OverrideInfo{"adapters-unknown", "one side does not say which adapters were on"},
    OverrideInfo{"tokenizer-unknown", "one side's tokenizer is not known"},
    OverrideInfo{"rope-unknown", "one side does not say how positions are encoded"},
};

/// What a field's outcome is when it is not plainly equal.
struct FieldRule {
  F field;
  Verdict when_different;
  Verdict when_unknown;
  std::string_view unknown_override;
  std::string_view different_override = {};
};

// spec: COMPATIBILITY.md#fields. kCompatible: said, but no reason to refuse.
constexpr std::array kRules{
    FieldRule{F::kArchitecture, Verdict::kDifferent, Verdict::kUnknown, {}},
    FieldRule{F::kWeightsDigest, Verdict::kDifferent, Verdict::kUnknown, "weights-unknown"},
    FieldRule{F::kAdapters, Verdict::kDifferent, Verdict::kUnknown, "adapters-unknown"},
    FieldRule{F::kTokenizerDigest, Verdict::kDifferent, Verdict::kUnknown, "tokenizer-unknown"},
    FieldRule{F::kVocabSize, Verdict::kDifferent, Verdict::kCompatible, {}},
    FieldRule{F::kTemplateDigest, Verdict::kCompatible, Verdict::kCompatible, {}},
    FieldRule{F::kRopeType, Verdict::kDifferent, Verdict::kUnknown, "rope-unknown"},
    FieldRule{F::kRopeBase, Verdict::kDifferent, Verdict::kUnknown, "rope-unknown"},
    FieldRule{F::kRopeDimensionCount, Verdict::kDifferent, Verdict::kUnknown, "rope-unknown"},
    FieldRule{F::kRopeScaling, Verdict::kDifferent, Verdict::kUnknown, "rope-unknown"},
    FieldRule{F::kRopeScaleFactor, Verdict::kDifferent, Verdict::kUnknown, "rope-unknown"},
    FieldRule{F::kRopeFactorsDigest, Verdict::kDifferent, Verdict::kUnknown, "rope-unknown"},
    FieldRule{F::kRopeOriginalContext, Verdict::kDifferent, Verdict::kUnknown, "rope-unknown"},
    FieldRule{F::kRopeExtrapolationFactor, Verdict::kDifferent, Verdict::kUnknown, "rope-unknown"},
    FieldRule{F::kRopeAttentionFactor, Verdict::kDifferent, Verdict::kUnknown, "rope-unknown"},
    FieldRule{F::kRopeBetaFast, Verdict::kDifferent, Verdict::kUnknown, "rope-unknown"},
    FieldRule{F::kRopeBetaSlow, Verdict::kDifferent, Verdict::kUnknown, "rope-unknown"},
};

bool same(const Identity& card, const Identity& target, F field) {
  const auto* a = card.find(field);
  const auto* b = target.find(field);
  return a != nullptr && b != nullptr && *a == *b;
}

std::string shown(const Identity::Value* value) {
  return value == nullptr ? "unknown" : format_identity_value(*value);
}

/// A field that neither side has and that only some position schemes have is no question.
bool optional_rope_field(F field) {
  return field >= F::kRopeBase && field <= F::kRopeBetaSlow;
}

/// Other weights: what the declared source makes of them.
void judge_weights(const Identity& card, const Identity& target, FieldVerdict& verdict) {
  if (!same(card, target, F::kSourceId)) {
    verdict.override_name.clear();
    return;
  }
  if (verdict.verdict == Verdict::kUnknown) return;
  verdict.verdict = Verdict::kCompatibleWithLoss;
  const bool quantization = same(card, target, F::kWeightsQuantization);
  verdict.override_name = quantization ? "weights-container" : "weights-quantization";
}

FieldVerdict judge(const Identity& card, const Identity& target, const FieldRule& rule) {
  FieldVerdict verdict;
  const auto* a = card.find(rule.field);
  const auto* b = target.find(rule.field);
  verdict.field = identity_field_info(static_cast<std::uint16_t>(rule.field))->name;
  verdict.card_value = shown(a);
  verdict.target_value = shown(b);
  if (same(card, target, rule.field)) {
    verdict.verdict = Verdict::kEqual;
  } else if (a == nullptr && b == nullptr && optional_rope_field(rule.field)) {
    verdict.verdict = Verdict::kCompatible;
  } else if (a == nullptr || b == nullptr) {
    verdict.verdict = rule.when_unknown;
    verdict.override_name = rule.when_unknown == Verdict::kUnknown ? rule.unknown_override : "";
  } else {
    verdict.verdict = rule.when_different;
    verdict.override_name = rule.different_override;
  }
  if (rule.field == F::kWeightsDigest && verdict.verdict != Verdict::kEqual) {
    judge_weights(card, target, verdict);
  }
  return verdict;
}

Error refusal(const FieldVerdict& v) {
  const bool unknown = v.verdict == Verdict::kUnknown;
  std::string detail = std::string(name_of(v.verdict)) + ": card " + v.card_value + ", target " + v.target_value;
  if (!v.override_name.empty()) detail += " (--allow " + v.override_name + " accepts this)";
  return {unknown ? ErrorCode::kIdentityUnknown : ErrorCode::kModelMismatch, kNoOffset,
          "identity." + v.field, std::move(detail)};
}

bool refuses(Verdict verdict) { return verdict >= Verdict::kCompatibleWithLoss; }

}  // namespace

std::string_view name_of(Verdict verdict) noexcept {
  switch (verdict) {
    case Verdict::kEqual:
      return "equal";
    case Verdict::kCompatible:
      return "compatible";
    case Verdict::kCompatibleWithLoss:
      return "compatible_with_loss";
    case Verdict::kDifferent:
      return "different";
    case Verdict::kUnknown:
      break;
  }
  return "unknown";
}

std::span<const OverrideInfo> overrides() noexcept { return kOverrides; }

Result<MatchReport> match_identity(const Identity& card, const Identity& target,
                                   const std::vector<std::string>& allow) {
  for (const std::string& name : allow) {
    const auto known = [&](const OverrideInfo& info) { return info.name == name; };
    if (std::none_of(kOverrides.begin(), kOverrides.end(), known)) {
      return Error{ErrorCode::kInvalidArgument, kNoOffset, "--allow", "found " + name + ", which is no override"};
    }
  }
  MatchReport report;
  report.accepted = true;
  for (const FieldRule& rule : kRules) {
    FieldVerdict verdict = judge(card, target, rule);
    verdict.overridden = refuses(verdict.verdict) && !verdict.override_name.empty() &&
                         std::find(allow.begin(), allow.end(), verdict.override_name) != allow.end();
    if (refuses(verdict.verdict) && !verdict.overridden && report.accepted) {
      report.accepted = false;
      report.error = refusal(verdict);
    }
    report.fields.push_back(std::move(verdict));
  }
  return report;
}

}  // namespace cachecard
