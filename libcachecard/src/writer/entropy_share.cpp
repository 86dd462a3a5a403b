// How EntropyPlan codes a segment with the lanes of an earlier one.
#include <algorithm>

#include "codec/entropy_overflow.hpp"
#include "writer/entropy_plan.hpp"

namespace cachecard {
namespace {

/// Values of a strip that their tables have no symbol for.
std::uint64_t count_escapes(std::span<const kernel::Lane> lanes, std::span<const kernel::StripToken> tokens,
                            std::span<const std::int16_t> index) {
  const kernel::EntropyTables& tables = kernel::entropy_tables();
  std::uint64_t escapes = 0;
  for (std::size_t t = 0; t < tokens.size(); ++t) {
    if (tokens[t].coded == 0) continue;
    for (std::size_t c = 0; c < lanes.size(); ++c) {
      const auto table = kernel::lane_table(lanes[c].level[tokens[t].reference], tokens[t].shift, lanes[c].shape);
      const CodedIndex coded = code_index(tables, table, index[t * kernel::kStripChannels + c]);
      escapes += coded.symbol == kernel::kEscape + kernel::kLargestSymbol ? 1 : 0;
    }
  }
  return escapes;
}

/// An escape takes some 60 bits: at one in so many values, lanes of their own cost less. The same for tokens that lanes cannot hold.
constexpr std::uint64_t kMostEscapes = 64;

}  // namespace

void EntropyPlan::adopt_shifts() {
  shifts_.assign(BitWidthMap::first_use(header_, header_.streams.size()), 0);
  for (const auto& [s, lane] : shared_) {
    std::copy(lane.shifts.begin(), lane.shifts.end(),
              shifts_.begin() + static_cast<std::ptrdiff_t>(BitWidthMap::first_use(header_, s)));
  }
  if (std::any_of(shifts_.begin(), shifts_.end(), [](std::int8_t shift) { return shift != 0; })) {
    map_ = first_map();
  } else {
    shifts_.clear();
  }
}

Status EntropyPlan::adopt_lanes(std::size_t index) {
  const StreamRecord& stream = header_.streams[index];
  Learned& learned = learned_.at(index);
  const auto shared = shared_.find(index);
  if (shared == shared_.end()) {
    learned.fits = false;
    return {};
  }
  learned.energy = shared->second.energy;
  learned.stream.emplace(stream, learned.parameters, shared->second.lanes, source_.rope_table());
  const EntropyStream& places = *learned.stream;
  const std::size_t groups = places.group_widths().size();
  const EntropyOverflow overflow(places.order(), places.group_widths(), places.scales(), 1.0);
  const auto scratch = scratch_.take();
  std::uint64_t values = 0;
  std::uint64_t escapes = 0;
  for (const TokenSpan& span : learned.spans) {
    const auto tokens = entropy_tokens(header_, map_, chunk_frame(index, span));
    if (Status s = load(index, places.order(), span, *tokens, *scratch); !s) return s;
    if (scratch->chunk.nonfinite) continue;  // refused, or raw, once it is coded
    const auto references = chunk_references(learned, span);
    const auto missed = std::span(learned.missed)
                            .subspan(span.first_token - header_.segments[segment_].first_token, span.token_count);
    for (const auto& place : places.strips()) {
      const auto steps = unit_tokens(*tokens, tokens->of_head(place.unit / groups),
                                     scratch->chunk.unit_energy(place.unit), learned.energy, references);
      const auto lanes = places.lanes().subspan(place.first, place.channels);
      quantise(lanes, places.scales().subspan(place.first, place.channels), steps, scratch->chunk.strip(place.first), kRowReach,
               scratch->strip, missed);
      escapes += count_escapes(lanes, steps, scratch->strip.index);
    }
    if (overflow.possible(*tokens, scratch->rows)) overflow.mark(*tokens, scratch->rows, scratch->chunk, learned.energy, missed);
    values += tokens->coded_count * row_elements(stream);
  }
  const auto exact = static_cast<std::uint64_t>(std::count(learned.missed.begin(), learned.missed.end(), std::uint8_t{1}));
  learned.fits = escapes * kMostEscapes <= values && exact * kMostEscapes <= learned.missed.size();
  return {};
}

}  // namespace cachecard
