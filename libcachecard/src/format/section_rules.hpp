#pragma once

#include <cstdint>

#include "cachecard/types.hpp"

namespace cachecard {

/// Whether a section belongs to the card, to one segment, or to a stream of a segment.
enum class Scope : std::uint8_t { kCard, kSegment, kStream };

/// What a section type fixes about its frame headers. spec: FORMAT.md#section-types
struct SectionRule {
  SectionType type;
  std::uint16_t flags;
  Scope scope;
  bool once;            ///< at most once per card or segment
  bool spans_segment;   ///< first_token and token_count are the segment's
  std::uint64_t required_feature;
  std::uint64_t optional_feature;
};

/// nullptr: a type that this reader does not know.
const SectionRule* section_rule(std::uint16_t type) noexcept;

}  // namespace cachecard
