#include <algorithm>
#include <cmath>

#include "base/bytes.hpp"
#include "cachecard/card.hpp"
#include "format/entropy_layout.hpp"
#include "format/record_check.hpp"

namespace cachecard {
namespace {

constexpr std::uint32_t kMostWeight = 8;

Error lanes_error(ErrorCode code, std::string field, std::string detail) {
  return {code, kNoOffset, std::move(field), std::move(detail)};
}

Status check_lanes_header(const LanesHeader& record, std::uint64_t size) {
  if (record.record_size != encoded_size<LanesHeader>()) {
    return field_error(ErrorCode::kBadSize, kNoOffset, &LanesHeader::record_size, found_allowed(record.record_size, "16"));
  }
  if (Status s = check_reserved(record, kNoOffset); !s) return s;
  if (record.table_set != kTableSet) {
    return field_error(ErrorCode::kBadEnum, kNoOffset, &LanesHeader::table_set, found_allowed(record.table_set, "1"));
  }
  if (std::uint64_t{record.stream_count} * encoded_size<LaneStreamRecord>() > size - encoded_size<LanesHeader>()) {
    return field_error(ErrorCode::kBadSize, kNoOffset, &LanesHeader::stream_count,
                       found_allowed(record.stream_count, "what the section holds"));
  }
  return {};
}

Status check_stream(const LaneStreamRecord& record) {
  if (Status s = check_reserved(record, kNoOffset); !s) return s;
  for (const auto flag : {&LaneStreamRecord::has_mean, &LaneStreamRecord::has_scale}) {
    if (record.*flag > 1) return field_error(ErrorCode::kBadEnum, kNoOffset, flag, found_allowed(record.*flag, "0 or 1"));
  }
  if (!std::isfinite(record.step)) {
    return field_error(ErrorCode::kNonFinite, kNoOffset, &LaneStreamRecord::step, "it is not a finite number");
  }
  if (record.step < kLeastStep || record.step > kMostStep) {
    return field_error(ErrorCode::kCorrupt, kNoOffset, &LaneStreamRecord::step, "it is not 2^-64 to 2^64");
  }
  return {};
}

Status check_values(const LaneStream& stream) {
  for (const std::uint32_t lane : stream.lanes) {
    if ((lane >> 15 & 15u) <= kMostWeight && (lane >> 19 & 15u) <= kMostWeight) continue;
    return lanes_error(ErrorCode::kCorrupt, "lanes", "found a weight above 8 eighths");
  }
  for (const std::uint16_t mean : stream.means) {
    if ((mean & 0x7C00u) == 0x7C00u) return lanes_error(ErrorCode::kNonFinite, "lanes", "a mean");
  }
  return {};
}

std::uint64_t key_of(const LaneStreamRecord& record) { return std::uint64_t{record.layer} << 8 | record.stream; }

}  // namespace

const LaneStream* Lanes::find(std::uint32_t layer, std::uint8_t stream) const {
  const std::uint64_t key = std::uint64_t{layer} << 8 | stream;
  const auto found = std::lower_bound(streams.begin(), streams.end(), key,
                                      [](const LaneStream& s, std::uint64_t k) { return key_of(s.record) < k; });
  return found == streams.end() || key_of(found->record) != key ? nullptr : &*found;
}

std::vector<std::byte> encode_lanes(const Lanes& lanes) {
  ByteWriter out;
  LanesHeader record;
  record.stream_count = static_cast<std::uint32_t>(lanes.streams.size());
  out.record(record);
  for (const LaneStream& stream : lanes.streams) out.record(stream.record);
  for (const LaneStream& stream : lanes.streams) {
    out.numbers(std::span(stream.lanes));
    out.numbers(std::span(stream.means));
  }
  return out.take();
}

Result<Lanes> parse_lanes(std::span<const std::byte> payload) {
  if (payload.size() < encoded_size<LanesHeader>()) {
    return lanes_error(ErrorCode::kBadSize, "lanes", "shorter than its record");
  }
  const auto record = load<LanesHeader>(payload);
  if (Status s = check_lanes_header(record, payload.size()); !s) return s.error();
  Lanes lanes;
  std::uint64_t needed = 0;
  auto rest = payload.subspan(encoded_size<LanesHeader>());
  for (std::uint32_t i = 0; i < record.stream_count; ++i) {
    LaneStream stream;
    stream.record = load<LaneStreamRecord>(rest);
    if (Status s = check_stream(stream.record); !s) return s.error();
    if (i > 0 && key_of(stream.record) <= key_of(lanes.streams.back().record)) {
      const char* detail = "streams do not ascend";
      if (stream.record.layer < lanes.streams.back().record.layer)
        return field_error(ErrorCode::kCorrupt, kNoOffset, &LaneStreamRecord::layer, detail);
      return field_error(ErrorCode::kCorrupt, kNoOffset, &LaneStreamRecord::stream, detail);
    }
    needed += std::uint64_t{stream.record.lane_count} * (4u + 2u * stream.record.has_mean);
    lanes.streams.push_back(std::move(stream));
    rest = rest.subspan(encoded_size<LaneStreamRecord>());
  }
  if (needed != rest.size()) {
    return field_error(ErrorCode::kBadSize, kNoOffset, &LaneStreamRecord::lane_count,
                       found_allowed(rest.size(), std::to_string(needed) + " bytes of lanes and means"));
  }
  for (LaneStream& stream : lanes.streams) {
    const std::uint64_t lane_bytes = 4ull * stream.record.lane_count;
    const std::uint64_t mean_bytes = 2ull * stream.record.lane_count * stream.record.has_mean;
    stream.lanes = load_numbers<std::uint32_t>(rest.first(lane_bytes));
    stream.means = load_numbers<std::uint16_t>(rest.subspan(lane_bytes, mean_bytes));
    if (Status s = check_values(stream); !s) return s.error();
    rest = rest.subspan(lane_bytes + mean_bytes);
  }
  return lanes;
}

Result<References> parse_references(std::span<const std::byte> payload, std::uint64_t token_count) {
  if (payload.size() != 2 * token_count) {
    return lanes_error(ErrorCode::kBadSize, "references",
                       found_allowed(payload.size(), std::to_string(2 * token_count) + " bytes"));
  }
  References references = load_numbers<std::uint16_t>(payload);
  for (std::size_t t = 0; t < references.size(); ++t) {
    const std::uint32_t distance = references[t] & kMostDistance;
    if (distance <= t && references[t] < 2 * kSecondClass && (distance > 0 || references[t] == 0)) continue;
    return lanes_error(ErrorCode::kCorrupt, "references",
                       "token " + std::to_string(t) + ": found " + std::to_string(references[t]) +
                           ", allowed 0, or a distance within the segment and a class");
  }
  return references;
}

}  // namespace cachecard
