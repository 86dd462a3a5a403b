#include <algorithm>

#include "base/bytes.hpp"
#include "base/checked.hpp"
#include "cachecard/card.hpp"
#include "format/record_check.hpp"

namespace cachecard {
namespace {

constexpr std::uint8_t kPlain = 0;
constexpr std::uint8_t kRunLength = 1;

std::uint32_t heads_of(const StreamRecord& stream) {
  return stream.stream == static_cast<std::uint8_t>(StreamKind::kOpaque) ? 0 : stream.kv_head_count;
}

/// Pairs (count 1..255, byte). spec: FORMAT.md#run-length
std::vector<std::byte> run_length(std::span<const std::byte> bytes) {
  std::vector<std::byte> out;
  for (std::size_t i = 0; i < bytes.size();) {
    std::size_t run = 1;
    while (run < 255 && i + run < bytes.size() && bytes[i + run] == bytes[i]) ++run;
    out.push_back(static_cast<std::byte>(run));
    out.push_back(bytes[i]);
    i += run;
  }
  return out;
}

Result<std::vector<std::byte>> expand(std::span<const std::byte> body, std::uint64_t size) {
  Error error{ErrorCode::kCorrupt, kNoOffset, "bit_width_map", "runs do not add up to its size"};
  if (body.size() % 2 != 0) return error;
  std::vector<std::byte> out;
  out.reserve(size);
  for (std::size_t i = 0; i < body.size(); i += 2) {
    const auto run = static_cast<std::size_t>(body[i]);
    if (run == 0 || run > size - out.size()) return error;
    out.insert(out.end(), run, body[i + 1]);
  }
  if (out.size() != size) return error;
  return out;
}

Status check_map_record(const MapHeader& record, const CardHeader& header, std::uint64_t token_count) {
  if (record.record_size != encoded_size<MapHeader>()) {
    return field_error(ErrorCode::kBadSize, kNoOffset, &MapHeader::record_size,
                       found_allowed(record.record_size, "32"));
  }
  if (Status s = check_reserved(record, kNoOffset); !s) return s;
  if (record.base_count != header.streams.size()) {
    return field_error(ErrorCode::kCorrupt, kNoOffset, &MapHeader::base_count,
                       found_allowed(record.base_count, "one for each stream"));
  }
  if (record.use_count != BitWidthMap::first_use(header, header.streams.size())) {
    return field_error(ErrorCode::kCorrupt, kNoOffset, &MapHeader::use_count,
                       found_allowed(record.use_count, "one for each stream and KV head"));
  }
  if (record.token_count != token_count) {
    return field_error(ErrorCode::kCorrupt, kNoOffset, &MapHeader::token_count,
                       found_allowed(record.token_count, std::to_string(token_count)));
  }
  if (record.row_count > 65536) {
    return field_error(ErrorCode::kLimitExceeded, kNoOffset, &MapHeader::row_count,
                       found_allowed(record.row_count, "at most 65536"));
  }
  if (record.encoding > kRunLength) {
    return field_error(ErrorCode::kBadEnum, kNoOffset, &MapHeader::encoding,
                       found_allowed(record.encoding, "0 or 1"));
  }
  return {};
}

}  // namespace

std::span<const std::int8_t> BitWidthMap::row(std::size_t index) const {
  return std::span(rows).subspan(index * token_count, token_count);
}

std::size_t BitWidthMap::first_use(const CardHeader& header, std::size_t stream_index) {
  std::size_t first = 0;
  for (std::size_t i = 0; i < stream_index; ++i) first += heads_of(header.streams[i]);
  return first;
}

BitWidthMap uniform_map(const CardHeader& header, std::uint64_t token_count) {
  BitWidthMap map;
  map.token_count = token_count;
  for (const StreamRecord& stream : header.streams) {
    map.base.push_back(dtype_info(static_cast<DType>(stream.dtype))->width_half_bits);
    map.cap.push_back(kNoCap);
  }
  map.row_of.assign(BitWidthMap::first_use(header, header.streams.size()), 0);
  map.rows.assign(token_count, 0);
  return map;
}

std::vector<std::byte> encode_map(const BitWidthMap& map) {
  ByteWriter plain;
  plain.numbers(std::span(map.base));
  plain.numbers(std::span(map.cap));
  plain.numbers(std::span(map.row_of));
  plain.numbers(std::span(map.rows));
  const std::vector<std::byte> body = plain.take();
  const std::vector<std::byte> runs = run_length(body);
  MapHeader record;
  record.base_count = static_cast<std::uint32_t>(map.base.size());
  record.use_count = static_cast<std::uint32_t>(map.row_of.size());
  record.row_count = static_cast<std::uint32_t>(map.row_count());
  record.token_count = map.token_count;
  record.encoding = runs.size() < body.size() ? kRunLength : kPlain;
  ByteWriter out;
  out.record(record);
  out.raw(record.encoding == kRunLength ? runs : body);
  return out.take();
}

Result<BitWidthMap> parse_map(std::span<const std::byte> payload, const CardHeader& header,
                              std::uint64_t token_count, const Limits& limits) {
  if (payload.size() < encoded_size<MapHeader>()) {
    return Error{ErrorCode::kBadSize, kNoOffset, "bit_width_map", "shorter than its record"};
  }
  const auto record = load<MapHeader>(payload);
  if (Status s = check_map_record(record, header, token_count); !s) return s.error();
  const auto row_bytes = checked_mul(record.row_count, token_count);
  const std::uint64_t fixed = 2ull * record.base_count + 2ull * record.use_count;
  if (!row_bytes || *row_bytes > limits.map_bytes - std::min(limits.map_bytes, fixed)) {
    return field_error(ErrorCode::kLimitExceeded, kNoOffset, &MapHeader::row_count,
                       found_allowed(record.row_count, std::to_string(limits.map_bytes) + " bytes"));
  }
  auto body_bytes = payload.subspan(encoded_size<MapHeader>());
  std::vector<std::byte> expanded;
  if (record.encoding == kRunLength) {
    auto result = expand(body_bytes, fixed + *row_bytes);
    if (!result) return result.error();
    expanded = std::move(*result);
    body_bytes = expanded;
  }
  if (body_bytes.size() != fixed + *row_bytes) {
    return Error{ErrorCode::kBadSize, kNoOffset, "bit_width_map",
                 found_allowed(body_bytes.size(), std::to_string(fixed + *row_bytes) + " bytes")};
  }
  BitWidthMap map;
  map.token_count = token_count;
  map.base = load_numbers<std::uint8_t>(body_bytes.first(record.base_count));
  map.cap = load_numbers<std::uint8_t>(body_bytes.subspan(record.base_count, record.base_count));
  map.row_of = load_numbers<std::uint16_t>(body_bytes.subspan(2ull * record.base_count, 2ull * record.use_count));
  map.rows = load_numbers<std::int8_t>(body_bytes.subspan(fixed));
  for (std::uint16_t row : map.row_of) {
    if (row >= record.row_count && !(row == 0 && token_count == 0)) {
      return Error{ErrorCode::kCorrupt, kNoOffset, "bit_width_map.row_of",
                   found_allowed(row, "below row_count")};
    }
  }
  return map;
}

}  // namespace cachecard
