#include "base/bytes.hpp"
#include "cachecard/reader.hpp"
#include "format/record_check.hpp"
#include "reader/payload.hpp"

namespace cachecard {

/// Parses one section; parse errors are placed at its payload.
template <class Parse>
static auto parse_section(const CardReader& card, std::size_t frame, Parse&& parse)
    -> decltype(parse(std::span<const std::byte>{})) {
  auto payload = card.read_section(frame);
  if (!payload) return payload.error();
  auto parsed = parse(std::span<const std::byte>(*payload));
  if (!parsed) return at_payload(parsed.error(), card.frames()[frame]);
  return parsed;
}

Result<std::vector<std::int32_t>> CardReader::token_ids() const {
  if ((header_.flags & kHeaderTokensUnknown) != 0) {
    return Error{ErrorCode::kTokensUnknown, kNoOffset, "header.flags", "the card holds no token ids"};
  }
  std::vector<std::int32_t> ids;
  for (std::uint32_t segment = 0; segment < header_.segments.size(); ++segment) {
    auto payload = read_section(*find(SectionType::kTokenIds, segment));
    if (!payload) return payload.error();
    const auto more = load_numbers<std::int32_t>(*payload);
    ids.insert(ids.end(), more.begin(), more.end());
  }
  return ids;
}

Result<std::vector<PositionRun>> CardReader::positions() const {
  std::vector<PositionRun> runs;
  for (std::uint32_t segment = 0; segment < header_.segments.size(); ++segment) {
    auto parsed = parse_section(*this, *find(SectionType::kPositions, segment), [&](auto payload) {
      return parse_positions(payload, header_.segments[segment].token_count);
    });
    if (!parsed) return parsed.error();
    runs.insert(runs.end(), parsed->begin(), parsed->end());
  }
  return runs;
}

Result<BitWidthMap> CardReader::map(std::uint32_t segment) const {
  const auto frame = find(SectionType::kBitWidthMap, segment);
  if (!frame) {
    return Error{ErrorCode::kInvalidArgument, kNoOffset, {}, "no segment " + std::to_string(segment)};
  }
  return parse_section(*this, *frame, [&](auto payload) {
    return parse_map(payload, header_, header_.segments[segment].token_count, limits_);
  });
}

Result<Parameters> CardReader::parameters(std::uint64_t digest) const {
  for (std::size_t i = 0; i < frames_.size(); ++i) {
    if (frames_[i].section_type == static_cast<std::uint16_t>(SectionType::kParameters) &&
        frames_[i].stored_digest == digest) {
      return parse_section(*this, i, parse_parameters);
    }
  }
  return Error{ErrorCode::kInvalidArgument, kNoOffset, {}, "no parameters with this digest"};
}

Result<Summary> CardReader::summary() const {
  return parse_section(*this, frames_.size() - 2, parse_summary);
}

Result<std::optional<SourceLayout>> CardReader::source_layout() const {
  const auto frame = find(SectionType::kSourceLayout);
  if (!frame) return std::optional<SourceLayout>();
  auto parsed = parse_section(*this, *frame,
                              [&](auto payload) { return parse_source_layout(payload, header_); });
  if (!parsed) return parsed.error();
  std::uint64_t literals = 0;
  for (const FrameHeader& f : frames_) {
    if (f.section_type == static_cast<std::uint16_t>(SectionType::kSourceBytes)) literals += f.decoded_size;
  }
  if (literals != parsed->record.literal_size) {
    return field_error(ErrorCode::kCorrupt, kNoOffset, &SourceLayoutHeader::literal_size,
                       found_allowed(parsed->record.literal_size, std::to_string(literals)));
  }
  return std::optional<SourceLayout>(std::move(*parsed));
}

Result<std::vector<ProvenanceEntry>> CardReader::provenance() const {
  const auto frame = find(SectionType::kProvenance);
  if (!frame) return std::vector<ProvenanceEntry>();
  return parse_section(*this, *frame, parse_provenance);
}

}  // namespace cachecard
