#include "map_report.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <tuple>

namespace cachecard::cli {
namespace {

/// What fixes the widths of a head's tokens.
struct RowUse {
  std::uint16_t row;
  std::uint8_t base;  ///< half bits
  std::uint8_t cap;   ///< half bits, or kNoCap
  std::uint8_t dtype;
  Codec codec;

  bool operator<(const RowUse& other) const {
    return std::tie(row, base, cap, dtype, codec) <
           std::tie(other.row, other.base, other.cap, other.dtype, other.codec);
  }
};

/// Layers of each stream kind (and head, where heads differ) that use a row alike.
using Users = std::map<std::string, std::vector<std::uint32_t>>;

std::uint8_t type_width(std::uint8_t dtype) {
  const DTypeInfo* info = dtype_info(static_cast<DType>(dtype));
  return info == nullptr ? 0 : info->width_half_bits;
}

/// Half bits of one token. spec: FORMAT.md#bit-width-map
int width_of(const RowUse& use, std::int8_t offset) {
  if (offset == kOffsetAbsent) return 0;
  const bool exact = use.codec == Codec::kRaw || use.codec == Codec::kGgml;
  if (exact || offset == kOffsetExact) return type_width(use.dtype);
  if (offset == kOffsetFine) return 16;
  return std::clamp<int>(use.base + offset, 0, use.cap);  // entropy only predicts: below 0 is 0
}

Json offset_json(std::int8_t offset) {
  if (offset == kOffsetAbsent) return "absent";
  if (offset == kOffsetExact) return "exact";
  if (offset == kOffsetFine) return "fine";
  return offset;
}

Codec codec_in(const CardReader& card, std::size_t stream, std::uint32_t segment) {
  for (std::uint32_t frame : card.chunks(stream)) {
    if (card.frames()[frame].segment == segment) {
      return static_cast<Codec>(card.frames()[frame].codec);
    }
  }
  return Codec::kRaw;
}

/// Heads of a stream in the map: latent has one, opaque none.
std::size_t uses_of(const CardHeader& header, const BitWidthMap& map, std::size_t stream) {
  const std::size_t first = BitWidthMap::first_use(header, stream);
  const std::size_t end =
      stream + 1 < header.streams.size() ? BitWidthMap::first_use(header, stream + 1) : map.row_of.size();
  return end - first;
}

std::map<RowUse, Users> group_uses(const CardReader& card, const BitWidthMap& map, std::uint32_t segment) {
  std::map<RowUse, Users> groups;
  for (std::size_t s = 0; s < card.header().streams.size(); ++s) {
    const StreamRecord& stream = card.header().streams[s];
    const std::size_t first = BitWidthMap::first_use(card.header(), s);
    const std::size_t count = uses_of(card.header(), map, s);
    bool alike = true;
    for (std::size_t h = 1; h < count; ++h) alike &= map.row_of[first + h] == map.row_of[first];
    for (std::size_t h = 0; h < (alike ? std::min<std::size_t>(count, 1) : count); ++h) {
      std::string name(name_of(static_cast<StreamKind>(stream.stream)));
      if (!alike) name += fmt::format(" head {}", h);
      groups[{map.row_of[first + h], map.base[s], map.cap[s], stream.dtype, codec_in(card, s, segment)}][name].push_back(
          stream.layer);
    }
  }
  return groups;
}

std::string users_text(const Users& users) {
  std::string text;
  for (const auto& [name, layers] : users) {
    text += fmt::format("{}{} of layers {}", text.empty() ? "" : "; ", name, ranges(layers));
  }
  return text;
}

void add_runs(const RowUse& use, const Users& users, const BitWidthMap& map, std::uint64_t first_token,
              std::uint32_t segment, std::vector<Json>& rows) {
  const auto offsets = map.row(use.row);
  for (std::size_t i = 0; i < offsets.size();) {
    std::size_t end = i + 1;
    while (end < offsets.size() && offsets[end] == offsets[i]) ++end;
    rows.push_back({{"segment", segment},
                    {"row", use.row},
                    {"streams", users_text(users)},
                    {"first_token", first_token + i},
                    {"token_count", end - i},
                    {"offset", offset_json(offsets[i])},
                    {"width_bits", width_of(use, offsets[i]) / 2.0}});
    i = end;
  }
}

}  // namespace

Result<std::vector<Json>> map_rows(const CardReader& card) {
  std::vector<Json> rows;
  const auto& segments = card.header().segments;
  for (std::uint32_t segment = 0; segment < segments.size(); ++segment) {
    if (!card.find(SectionType::kBitWidthMap, segment)) continue;
    auto map = card.map(segment);
    if (!map) return map.error();
    for (const auto& [use, users] : group_uses(card, *map, segment)) {
      add_runs(use, users, *map, segments[segment].first_token, segment, rows);
    }
  }
  return rows;
}

}  // namespace cachecard::cli
