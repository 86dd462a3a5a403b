#include "edit/level_offsets.hpp"

#include <algorithm>
#include <cmath>
#include <optional>

#include "format/entropy_layout.hpp"
#include "writer/card_order.hpp"

namespace cachecard {
namespace {

bool is_coded(std::int8_t offset) { return offset >= kLeastTokenOffset && offset <= kMostTokenOffset; }

std::optional<double> mean_of(std::span<const std::int8_t> offsets) {
  double sum = 0.0;
  std::size_t count = 0;
  for (const std::int8_t offset : offsets) {
    if (!is_coded(offset)) continue;
    sum += offset;
    ++count;
  }
  return count == 0 ? std::nullopt : std::optional(sum / static_cast<double>(count));
}

/// The segment that says most of BASE: the first card of a chain, as a rule.
std::uint32_t largest_segment(const CardHeader& header) {
  const auto most = std::max_element(header.segments.begin(), header.segments.end(),
                                     [](const SegmentRecord& a, const SegmentRecord& b) { return a.token_count < b.token_count; });
  return static_cast<std::uint32_t>(most - header.segments.begin());
}

}  // namespace

Status level_offsets(const CardReader& base, const CardHeader& header, std::uint64_t kept, EntropyOptions& entropy) {
  if (entropy.token_offsets.empty() || kept == 0 || kept >= header.token_count) return {};
  auto map = base.map(largest_segment(base.header()));
  if (!map) return map.error();
  for (std::size_t s = 0; s < header.streams.size(); ++s) {
    const StreamRecord& stream = header.streams[s];
    const auto old = base.header().stream_index(stream.layer, static_cast<StreamKind>(stream.stream));
    if (!old || !is_float_stream(stream)) continue;
    const std::size_t of_base = BitWidthMap::first_use(base.header(), *old);
    const std::size_t use = BitWidthMap::first_use(header, s);
    for (std::uint32_t h = 0; h < stream.kv_head_count; ++h) {
      const auto added = std::span(entropy.token_offsets).subspan((use + h) * header.token_count + kept, header.token_count - kept);
      const auto wanted = mean_of(map->row(map->row_of[of_base + h]));
      const auto found = mean_of(added);
      if (!wanted || !found) continue;
      const auto shift = static_cast<int>(std::lround((*wanted - *found) / 2.0));
      for (std::int8_t& offset : added) {
        if (is_coded(offset)) offset = static_cast<std::int8_t>(std::clamp<int>(offset + shift, kLeastTokenOffset, kMostTokenOffset));
      }
    }
  }
  return {};
}

}  // namespace cachecard
