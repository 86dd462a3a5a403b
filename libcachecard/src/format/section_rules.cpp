#include "format/section_rules.hpp"

#include <array>

namespace cachecard {
namespace {

using T = SectionType;
using S = Scope;
constexpr std::uint16_t kReq = kFrameRequired;
constexpr std::uint16_t kCopy = kFrameCopySafe;

constexpr std::array kRules{
    SectionRule{T::kTokenIds, kReq, S::kSegment, true, true, 0, 0},
    SectionRule{T::kText, 0, S::kSegment, true, true, 0, kFeatureText},
    SectionRule{T::kPositions, kReq, S::kSegment, true, true, 0, 0},
    SectionRule{T::kBitWidthMap, kReq, S::kSegment, true, true, 0, 0},
    SectionRule{T::kParameters, kReq, S::kSegment, false, false, 0, 0},
    SectionRule{T::kReferences, kReq, S::kSegment, false, false, kFeatureEntropy, 0},
    SectionRule{T::kRopeTable, kReq, S::kCard, false, false, 0, 0},
    SectionRule{T::kChunk, kReq, S::kStream, false, false, 0, 0},
    SectionRule{T::kMedia, 0, S::kSegment, false, false, 0, kFeatureMedia},
    SectionRule{T::kSourceLayout, 0, S::kCard, true, false, 0, kFeatureSourceLayout},
    SectionRule{T::kSourceBytes, 0, S::kCard, false, false, 0, kFeatureSourceLayout},
    SectionRule{T::kCanary, 0, S::kCard, true, false, 0, kFeatureCanary},
    SectionRule{T::kProvenance, kCopy, S::kCard, true, false, 0, 0},
    SectionRule{T::kProfileDigest, kCopy, S::kCard, true, false, 0, 0},
    SectionRule{T::kSummary, kReq, S::kCard, true, false, 0, 0},
    SectionRule{T::kDirectory, kReq, S::kCard, true, false, 0, 0},
    SectionRule{T::kLanes, kReq, S::kSegment, false, false, kFeatureEntropy, 0},
    SectionRule{T::kModelProfile, 0, S::kCard, false, false, 0, 0},
};

}  // namespace

const SectionRule* section_rule(std::uint16_t type) noexcept {
  for (const SectionRule& rule : kRules) {
    if (static_cast<std::uint16_t>(rule.type) == type) return &rule;
  }
  return nullptr;
}

}  // namespace cachecard
