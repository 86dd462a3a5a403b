#include <vector>

#include "cachecard/profile.hpp"

namespace cachecard {

Result<WriteReport> write_profile(const ModelProfile& profile, const ProvenanceEntry& provenance, ByteSink& sink) {
  CardHeader header = profile.header;
  header.token_count = 0;
  header.next_position = 0;
  header.flags |= kHeaderTokensUnknown;
  header.segments.assign(1, SegmentRecord{});
  for (StreamRecord& stream : header.streams) {
    stream.first_token = 0;
    stream.token_count = 0;
  }
  auto writer = CardWriter::create(sink, header, 0, 0);
  if (!writer) return writer.error();
  const auto add = [&](SectionType type, std::uint32_t segment, std::span<const std::byte> payload) -> Status {
    auto frame = writer->add(make_frame(type, segment), payload);
    if (!frame) return frame.error();
    return {};
  };
  if (Status s = add(SectionType::kPositions, 0, encode_positions({})); !s) return s.error();
  if (Status s = add(SectionType::kBitWidthMap, 0, encode_map(uniform_map(header, 0))); !s) return s.error();
  for (const ProfileLayer& layer : profile.layers) {
    if (Status s = add(SectionType::kModelProfile, kNoSegment, encode_profile_layer(layer)); !s) return s.error();
  }
  if (Status s = add(SectionType::kProvenance, kNoSegment, encode_provenance(std::span(&provenance, 1))); !s) return s.error();
  return writer->finish();
}

}  // namespace cachecard
