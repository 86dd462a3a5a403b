#include <cmath>
#include <limits>

#include "base/bytes.hpp"
#include "base/checked.hpp"
#include "cachecard/card.hpp"
#include "format/entropy_layout.hpp"
#include "format/header_checks.hpp"
#include "format/planes_layout.hpp"
#include "format/record_check.hpp"

namespace cachecard {
namespace {

// Inside these, decoding makes no infinity and so no NaN, whose bits differ between processors.
constexpr double kLeastMagnitude = 1.0 / 1024;
constexpr double kMostMagnitude = 1024.0;
constexpr double kMostFrequency = 1024.0;  ///< radians a position: angles of any i32 position stay exact in f64

Error section_error(ErrorCode code, std::string_view section, std::string detail) {
  return {code, kNoOffset, std::string(section), std::move(detail)};
}

template <class Record>
Result<Record> load_first(std::span<const std::byte> payload) {
  if (payload.size() < encoded_size<Record>()) {
    return section_error(ErrorCode::kBadSize, Layout<Record>::name, "shorter than its record");
  }
  const auto record = load<Record>(payload);
  if (record.record_size != encoded_size<Record>()) {
    return field_error(ErrorCode::kBadSize, kNoOffset, &Record::record_size,
                       found_allowed(record.record_size, std::to_string(encoded_size<Record>())));
  }
  if (Status s = check_reserved(record, kNoOffset); !s) return s.error();
  return record;
}

Status check_run(const PositionRun& run) {
  constexpr std::int64_t kMin = std::numeric_limits<std::int32_t>::min();
  constexpr std::int64_t kMax = std::numeric_limits<std::int32_t>::max();
  const auto inside = [](std::int64_t v) { return v >= kMin && v <= kMax; };
  if (run.token_count == 0 || run.token_count > std::uint64_t{kMax}) {
    return field_error(ErrorCode::kCorrupt, kNoOffset, &PositionRun::token_count,
                       found_allowed(run.token_count, "1 to 2147483647"));
  }
  if (!inside(run.step)) {
    return field_error(ErrorCode::kCorrupt, kNoOffset, &PositionRun::step, "it leaves 32 bits");
  }
  if (!inside(run.first_position) ||
      !inside(run.first_position + run.step * static_cast<std::int64_t>(run.token_count - 1))) {
    return field_error(ErrorCode::kCorrupt, kNoOffset, &PositionRun::first_position,
                       "positions leave 32 bits");
  }
  return {};
}

/// What planes ask of their parameters, whatever the stream. spec: CODECS.md#parameters-of-planes
Status check_planes_record(const ParameterHeader& record, std::span<const std::byte> data) {
  const bool removed = record.rope_removed == 1;
  if ((record.rope_table_digest != 0) != removed) {
    return field_error(ErrorCode::kCorrupt, kNoOffset, &ParameterHeader::rope_table_digest,
                       removed ? "RoPE was removed, and no table puts it back" : "a table without rope_removed");
  }
  if ((record.positions_digest != 0) != removed) {
    return field_error(ErrorCode::kCorrupt, kNoOffset, &ParameterHeader::positions_digest,
                       removed ? "RoPE was removed, and no positions put it back" : "positions without rope_removed");
  }
  if (record.references_digest != 0) {
    return field_error(ErrorCode::kCorrupt, kNoOffset, &ParameterHeader::references_digest,
                       "planes have no references");
  }
  if (record.lanes_digest != 0) {
    return field_error(ErrorCode::kCorrupt, kNoOffset, &ParameterHeader::lanes_digest, "planes have no lanes");
  }
  if (record.hadamard_size > kLargestPlanesHadamard) {
    return field_error(ErrorCode::kCorrupt, kNoOffset, &ParameterHeader::hadamard_size,
                       found_allowed(record.hadamard_size, "at most " + std::to_string(kLargestPlanesHadamard)));
  }
  if (record.part_count > kMostPlanesParts) {
    return field_error(ErrorCode::kLimitExceeded, kNoOffset, &ParameterHeader::part_count,
                       found_allowed(record.part_count, "at most " + std::to_string(kMostPlanesParts)));
  }
  if (data.size() % 2 != 0) {
    return field_error(ErrorCode::kBadSize, kNoOffset, &ParameterHeader::data_size,
                       found_allowed(data.size(), "means of two bytes"));
  }
  for (const std::uint16_t mean : load_numbers<std::uint16_t>(data)) {
    if ((mean & 0x7C00u) == 0x7C00u) return section_error(ErrorCode::kNonFinite, "parameters", "a mean");
  }
  return {};
}

}  // namespace

std::vector<std::byte> encode_parameters(const Parameters& parameters) {
  ParameterHeader record = parameters.record;
  record.part_count = static_cast<std::uint32_t>(parameters.parts.size());
  record.data_size = parameters.data.size();
  ByteWriter out;
  out.record(record);
  for (const PartRecord& part : parameters.parts) out.record(part);
  out.raw(parameters.data);
  return out.take();
}

Result<Parameters> parse_parameters(std::span<const std::byte> payload) {
  auto record = load_first<ParameterHeader>(payload);
  if (!record) return record.error();
  if (record->rope_removed > 1) {
    return field_error(ErrorCode::kBadEnum, kNoOffset, &ParameterHeader::rope_removed,
                       found_allowed(record->rope_removed, "0 or 1"));
  }
  if (!std::has_single_bit(record->hadamard_size)) {
    return field_error(ErrorCode::kCorrupt, kNoOffset, &ParameterHeader::hadamard_size,
                       found_allowed(record->hadamard_size, "a power of two"));
  }
  const std::uint64_t part_bytes = std::uint64_t{record->part_count} * encoded_size<PartRecord>();
  const std::uint64_t left = payload.size() - encoded_size<ParameterHeader>();
  if (part_bytes > left) {
    return field_error(ErrorCode::kBadSize, kNoOffset, &ParameterHeader::part_count,
                       found_allowed(record->part_count, "what the section holds"));
  }
  if (record->data_size != left - part_bytes) {
    return field_error(ErrorCode::kBadSize, kNoOffset, &ParameterHeader::data_size,
                       found_allowed(record->data_size, "what the section holds"));
  }
  Parameters parameters;
  parameters.record = *record;
  auto rest = payload.subspan(encoded_size<ParameterHeader>());
  for (std::uint32_t i = 0; i < record->part_count; ++i) {
    parameters.parts.push_back(load<PartRecord>(rest));
    if (Status s = check_reserved(parameters.parts.back(), kNoOffset); !s) return s.error();
    rest = rest.subspan(encoded_size<PartRecord>());
  }
  parameters.data.assign(rest.begin(), rest.end());
  if (record->codec == static_cast<std::uint8_t>(Codec::kPlanes)) {
    if (Status s = check_planes_record(*record, parameters.data); !s) return s.error();
  }
  if (record->codec == static_cast<std::uint8_t>(Codec::kEntropy)) {
    if (Status s = check_entropy_record(*record); !s) return s.error();
  }
  return parameters;
}

std::vector<std::byte> encode_rope_table(const RopeTable& table) {
  RopeTableHeader record = table.record;
  record.pair_count = static_cast<std::uint32_t>(table.inverse_frequencies.size());
  ByteWriter out;
  out.record(record);
  out.numbers(std::span(table.inverse_frequencies));
  return out.take();
}

Result<RopeTable> parse_rope_table(std::span<const std::byte> payload) {
  auto record = load_first<RopeTableHeader>(payload);
  if (!record) return record.error();
  if (record->pairing < 1 || record->pairing > 2) {
    return field_error(ErrorCode::kBadEnum, kNoOffset, &RopeTableHeader::pairing,
                       found_allowed(record->pairing, "1 or 2"));
  }
  const std::uint64_t left = payload.size() - encoded_size<RopeTableHeader>();
  if (std::uint64_t{record->pair_count} * 8 != left) {
    return field_error(ErrorCode::kBadSize, kNoOffset, &RopeTableHeader::pair_count,
                       found_allowed(record->pair_count, "what the section holds"));
  }
  if (std::uint64_t{record->pair_count} * 2 != record->rotated_width) {
    return field_error(ErrorCode::kCorrupt, kNoOffset, &RopeTableHeader::rotated_width,
                       found_allowed(record->rotated_width, "two channels a pair"));
  }
  if (!std::isfinite(record->magnitude)) {
    return field_error(ErrorCode::kNonFinite, kNoOffset, &RopeTableHeader::magnitude, "it is not a finite number");
  }
  if (record->magnitude < kLeastMagnitude || record->magnitude > kMostMagnitude) {
    return field_error(ErrorCode::kCorrupt, kNoOffset, &RopeTableHeader::magnitude,
                       "found " + std::to_string(record->magnitude) + ", allowed 1/1024 to 1024");
  }
  RopeTable table{*record, load_numbers<double>(payload.subspan(encoded_size<RopeTableHeader>()))};
  for (double frequency : table.inverse_frequencies) {
    if (!std::isfinite(frequency)) return section_error(ErrorCode::kNonFinite, "rope_table", "a frequency");
    if (frequency <= 0.0 || frequency > kMostFrequency) {
      return section_error(ErrorCode::kCorrupt, "rope_table",
                           "found a frequency of " + std::to_string(frequency) + ", allowed above 0, up to 1024");
    }
  }
  return table;
}

std::vector<PositionRun> position_runs(std::span<const std::int32_t> positions) {
  std::vector<PositionRun> runs;
  for (std::size_t i = 0; i < positions.size(); ++i) {
    const std::int64_t position = positions[i];
    if (!runs.empty()) {
      PositionRun& run = runs.back();
      const std::int64_t last =
          run.first_position + run.step * static_cast<std::int64_t>(run.token_count - 1);
      const std::int64_t gap = position - last;
      const bool fits = gap == static_cast<std::int32_t>(gap);  // a step is an i32 like the positions
      if (run.token_count == 1 && fits) run.step = gap;
      if (gap == run.step && fits) {
        ++run.token_count;
        continue;
      }
    }
    runs.push_back({1, position, 0});
  }
  return runs;
}

std::vector<std::byte> encode_positions(std::span<const PositionRun> runs) {
  ByteWriter out;
  for (const PositionRun& run : runs) out.record(run);
  return out.take();
}

Result<std::vector<PositionRun>> parse_positions(std::span<const std::byte> payload,
                                                 std::uint64_t token_count) {
  constexpr std::size_t kSize = encoded_size<PositionRun>();
  if (payload.size() % kSize != 0) {
    return section_error(ErrorCode::kBadSize, "positions", "no whole number of runs");
  }
  std::vector<PositionRun> runs;
  std::uint64_t total = 0;
  for (std::size_t at = 0; at < payload.size(); at += kSize) {
    runs.push_back(load<PositionRun>(payload.subspan(at)));
    if (Status s = check_run(runs.back()); !s) return s.error();
    total += runs.back().token_count;
    if (total > token_count) break;
  }
  if (total != token_count) {
    return section_error(ErrorCode::kCorrupt, "positions",
                         "runs hold " + std::to_string(total) + " of " + std::to_string(token_count) +
                             " tokens");
  }
  return runs;
}

std::vector<std::int32_t> expand_positions(std::span<const PositionRun> runs) {
  std::vector<std::int32_t> positions;
  for (const PositionRun& run : runs) {
    for (std::uint64_t i = 0; i < run.token_count; ++i) {
      positions.push_back(
          static_cast<std::int32_t>(run.first_position + run.step * static_cast<std::int64_t>(i)));
    }
  }
  return positions;
}

std::vector<std::byte> encode_provenance(std::span<const ProvenanceEntry> entries) {
  ByteWriter out;
  ProvenanceHeader record;
  record.step_count = static_cast<std::uint32_t>(entries.size());
  record.step_stride = static_cast<std::uint32_t>(encoded_size<ProvenanceStep>());
  for (const auto& entry : entries) record.text_size += static_cast<std::uint32_t>(entry.text.size());
  out.record(record);
  std::uint32_t text_at = 0;
  for (const auto& entry : entries) {
    ProvenanceStep step;
    step.hop = entry.hop;
    step.operation = static_cast<std::uint16_t>(entry.operation);
    step.time = entry.time;
    step.parent_root = entry.parent_root;
    step.text_offset = text_at;
    step.text_size = static_cast<std::uint32_t>(entry.text.size());
    text_at += step.text_size;
    out.record(step);
  }
  for (const auto& entry : entries) out.text(entry.text);
  return out.take();
}

namespace {

Result<ProvenanceEntry> parse_step(std::span<const std::byte> bytes, std::string_view text) {
  const auto step = load<ProvenanceStep>(bytes);
  if (Status s = check_reserved(step, kNoOffset); !s) return s.error();
  if (step.operation < 1 || step.operation > static_cast<std::uint16_t>(ProvenanceOp::kCalibrate)) {
    return field_error(ErrorCode::kBadEnum, kNoOffset, &ProvenanceStep::operation,
                       found_allowed(step.operation, "1 to 6"));
  }
  if (step.text_offset > text.size()) {
    return field_error(ErrorCode::kBadOffset, kNoOffset, &ProvenanceStep::text_offset,
                       found_allowed(step.text_offset, "at most " + std::to_string(text.size())));
  }
  if (step.text_size > text.size() - step.text_offset) {
    return field_error(ErrorCode::kBadOffset, kNoOffset, &ProvenanceStep::text_size,
                       found_allowed(step.text_size, "at most " + std::to_string(text.size() - step.text_offset)));
  }
  ProvenanceEntry entry{step.hop, static_cast<ProvenanceOp>(step.operation), step.time,
                        step.parent_root, std::string(text.substr(step.text_offset, step.text_size))};
  if (!is_utf8(entry.text)) {
    return section_error(ErrorCode::kCorrupt, "provenance", "the text is not UTF-8");
  }
  return entry;
}

}  // namespace

Result<std::vector<ProvenanceEntry>> parse_provenance(std::span<const std::byte> payload) {
  auto record = load_first<ProvenanceHeader>(payload);
  if (!record) return record.error();
  if (record->step_stride != encoded_size<ProvenanceStep>()) {
    return field_error(ErrorCode::kBadSize, kNoOffset, &ProvenanceHeader::step_stride,
                       found_allowed(record->step_stride, "48"));
  }
  const std::uint64_t steps = std::uint64_t{record->step_count} * record->step_stride;
  const std::uint64_t left = payload.size() - encoded_size<ProvenanceHeader>();
  if (steps > left) {
    return field_error(ErrorCode::kBadSize, kNoOffset, &ProvenanceHeader::step_count,
                       found_allowed(record->step_count, "what the section holds"));
  }
  if (record->text_size != left - steps) {
    return field_error(ErrorCode::kBadSize, kNoOffset, &ProvenanceHeader::text_size,
                       found_allowed(record->text_size, std::to_string(left - steps)));
  }
  const auto body = payload.subspan(encoded_size<ProvenanceHeader>());
  const std::string_view text(reinterpret_cast<const char*>(body.data()) + steps, record->text_size);
  std::vector<ProvenanceEntry> entries;
  for (std::uint64_t at = 0; at < steps; at += record->step_stride) {
    auto entry = parse_step(body.subspan(at), text);
    if (!entry) return entry.error();
    entries.push_back(std::move(*entry));
  }
  return entries;
}

}  // namespace cachecard
