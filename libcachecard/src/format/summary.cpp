#include "base/bytes.hpp"
#include "cachecard/card.hpp"
#include "format/record_check.hpp"

namespace cachecard {

std::vector<std::byte> encode_summary(const Summary& summary) {
  SummaryHeader record;
  record.stage_count = static_cast<std::uint32_t>(summary.stages.size());
  record.width_count = static_cast<std::uint32_t>(summary.widths.size());
  record.value_count = summary.value_count;
  record.opaque_size = summary.opaque_size;
  record.predicted_error = summary.predicted_error;
  ByteWriter out;
  out.record(record);
  for (const SummaryStage& stage : summary.stages) out.record(stage);
  for (const SummaryWidth& width : summary.widths) out.record(width);
  return out.take();
}

Result<Summary> parse_summary(std::span<const std::byte> payload) {
  if (payload.size() < encoded_size<SummaryHeader>()) {
    return Error{ErrorCode::kBadSize, kNoOffset, "summary", "shorter than its record"};
  }
  const auto record = load<SummaryHeader>(payload);
  if (record.record_size != encoded_size<SummaryHeader>()) {
    return field_error(ErrorCode::kBadSize, kNoOffset, &SummaryHeader::record_size,
                       found_allowed(record.record_size, "48"));
  }
  if (Status s = check_reserved(record, kNoOffset); !s) return s.error();
  const std::uint64_t stages = std::uint64_t{record.stage_count} * encoded_size<SummaryStage>();
  const std::uint64_t widths = std::uint64_t{record.width_count} * encoded_size<SummaryWidth>();
  const std::uint64_t left = payload.size() - encoded_size<SummaryHeader>();
  if (stages <= left && widths != left - stages) {
    return field_error(ErrorCode::kBadSize, kNoOffset, &SummaryHeader::width_count,
                       found_allowed(record.width_count, "what the section holds"));
  }
  if (stages > left) {
    return field_error(ErrorCode::kBadSize, kNoOffset, &SummaryHeader::stage_count,
                       found_allowed(record.stage_count, "what the section holds"));
  }
  Summary summary;
  summary.value_count = record.value_count;
  summary.opaque_size = record.opaque_size;
  summary.predicted_error = record.predicted_error;
  auto rest = payload.subspan(encoded_size<SummaryHeader>());
  for (std::uint32_t i = 0; i < record.stage_count; ++i) {
    summary.stages.push_back(load<SummaryStage>(rest));
    if (Status s = check_reserved(summary.stages.back(), kNoOffset); !s) return s.error();
    rest = rest.subspan(encoded_size<SummaryStage>());
  }
  for (std::uint32_t i = 0; i < record.width_count; ++i) {
    summary.widths.push_back(load<SummaryWidth>(rest));
    if (Status s = check_reserved(summary.widths.back(), kNoOffset); !s) return s.error();
    rest = rest.subspan(encoded_size<SummaryWidth>());
  }
  return summary;
}

}  // namespace cachecard
