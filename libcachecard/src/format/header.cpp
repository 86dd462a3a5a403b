#include <algorithm>

#include "base/bytes.hpp"
#include "base/checked.hpp"
#include "cachecard/card.hpp"
#include "format/framing.hpp"
#include "format/header_checks.hpp"
#include "format/record_check.hpp"

namespace cachecard {
namespace {

/// Where one table of the header lies; error fields are named after its three members.
struct TableRef {
  std::uint32_t HeaderRecord::* offset;
  std::uint32_t HeaderRecord::* count;
  std::uint32_t HeaderRecord::* stride;
};
constexpr TableRef kStreams{&HeaderRecord::stream_offset, &HeaderRecord::stream_count,
                            &HeaderRecord::stream_stride};
constexpr TableRef kParts{&HeaderRecord::part_offset, &HeaderRecord::part_count,
                          &HeaderRecord::part_stride};
constexpr TableRef kSegments{&HeaderRecord::segment_offset, &HeaderRecord::segment_count,
                             &HeaderRecord::segment_stride};
constexpr TableRef kIdentity{&HeaderRecord::identity_offset, &HeaderRecord::identity_count,
                             &HeaderRecord::identity_stride};

Error header_error(ErrorCode code, std::uint32_t HeaderRecord::* member, std::string detail) {
  return field_error(code, kPrologueSize, member, std::move(detail));
}

template <class Record>
Result<std::vector<Record>> load_table(std::span<const std::byte> bytes, const HeaderRecord& record,
                                       const TableRef& table, std::uint64_t max_count) {
  const std::uint64_t offset = record.*table.offset;
  const std::uint64_t count = record.*table.count;
  const std::uint64_t stride = record.*table.stride;
  if (count > max_count) {
    return header_error(ErrorCode::kLimitExceeded, table.count,
                        found_allowed(count, "at most " + std::to_string(max_count)));
  }
  if (stride < encoded_size<Record>() || stride > 4096) {
    return header_error(ErrorCode::kBadSize, table.stride,
                        found_allowed(stride, std::to_string(encoded_size<Record>()) + " to 4096"));
  }
  if (offset < record.record_size || !span_within(offset, count * stride, bytes.size())) {
    return header_error(ErrorCode::kBadOffset, table.offset,
                        "the table of " + std::to_string(count) + " leaves the header");
  }
  std::vector<Record> rows(count);
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint64_t at = offset + i * stride;
    rows[i] = load<Record>(bytes.subspan(at));
    if (Status s = check_reserved(rows[i], kPrologueSize + at); !s) return s.error();
  }
  return rows;
}

Status check_record(const HeaderRecord& record, std::size_t header_size, const Limits& limits) {
  if (record.record_size < encoded_size<HeaderRecord>() || record.record_size > header_size) {
    return header_error(ErrorCode::kBadSize, &HeaderRecord::record_size,
                        found_allowed(record.record_size, "128 to the header's size"));
  }
  if (Status s = check_reserved(record, kPrologueSize); !s) return s;
  if ((record.flags & ~kHeaderFlagsKnown) != 0) {
    return header_error(ErrorCode::kReservedNotZero, &HeaderRecord::flags,
                        found_allowed(record.flags, "bits 0 to 2"));
  }
  if (record.token_count > limits.token_count) {
    return field_error(ErrorCode::kLimitExceeded, kPrologueSize, &HeaderRecord::token_count,
                       found_allowed(record.token_count, std::to_string(limits.token_count)));
  }
  if (record.restorable > static_cast<std::uint8_t>(Restorable::kFromCount)) {
    return field_error(ErrorCode::kBadEnum, kPrologueSize, &HeaderRecord::restorable,
                       found_allowed(record.restorable, "0 to 2"));
  }
  if (record.restorable_from > record.token_count) {
    return field_error(ErrorCode::kCorrupt, kPrologueSize, &HeaderRecord::restorable_from,
                       found_allowed(record.restorable_from, "at most token_count"));
  }
  return {};
}

bool right_size(ValueType type, std::uint32_t size) {
  switch (type) {
    case ValueType::kText:
      return true;
    case ValueType::kU64:
    case ValueType::kF64:
      return size == 8;
    case ValueType::kDigest:
      return size == 16;
  }
  return false;
}

Result<Identity::Value> load_identity(const IdentityRecord& row, std::uint64_t at,
                                      std::span<const std::byte> header) {
  if (row.value_type < 1 || row.value_type > 4) {
    return field_error(ErrorCode::kBadEnum, at, &IdentityRecord::value_type,
                       found_allowed(row.value_type, "1 to 4"));
  }
  const auto type = static_cast<ValueType>(row.value_type);
  const IdentityFieldInfo* info = identity_field_info(row.field_id);
  if (info != nullptr && info->type != type) {
    return field_error(ErrorCode::kCorrupt, at, &IdentityRecord::value_type,
                       std::string(info->name) + " has another type");
  }
  if (!span_within(row.value_offset, row.value_size, header.size())) {
    return field_error(ErrorCode::kBadOffset, at, &IdentityRecord::value_offset,
                       "the value leaves the header");
  }
  if (!right_size(type, row.value_size)) {
    return field_error(ErrorCode::kBadSize, at, &IdentityRecord::value_size,
                       found_allowed(row.value_size, "the size of its type"));
  }
  const auto bytes = header.subspan(row.value_offset, row.value_size);
  std::string value(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (type == ValueType::kText && !is_utf8(value)) {
    return field_error(ErrorCode::kCorrupt, at, &IdentityRecord::value_offset, "the text is not UTF-8");
  }
  return Identity::Value{row.field_id, type, std::move(value)};
}

Result<Identity> load_identities(std::span<const std::byte> bytes, const HeaderRecord& record) {
  auto rows = load_table<IdentityRecord>(bytes, record, kIdentity, 1024);
  if (!rows) return rows.error();
  Identity identity;
  std::uint32_t previous = 0;
  for (std::size_t i = 0; i < rows->size(); ++i) {
    const std::uint64_t at = kPrologueSize + record.identity_offset + i * record.identity_stride;
    if ((*rows)[i].field_id <= previous) {
      return field_error(ErrorCode::kCorrupt, at, &IdentityRecord::field_id,
                         found_allowed((*rows)[i].field_id, "ascending, each once, above 0"));
    }
    previous = (*rows)[i].field_id;
    auto value = load_identity((*rows)[i], at, bytes);
    if (!value) return value.error();
    identity.set(std::move(*value));
  }
  return identity;
}

template <class Record>
void place(std::uint32_t& cursor, HeaderRecord& record, const TableRef& table, std::size_t count) {
  record.*table.offset = cursor;
  record.*table.count = static_cast<std::uint32_t>(count);
  record.*table.stride = static_cast<std::uint32_t>(encoded_size<Record>());
  cursor += static_cast<std::uint32_t>(count * encoded_size<Record>());
}

HeaderRecord plan_record(const CardHeader& header, std::uint32_t* values_at) {
  HeaderRecord record;
  record.flags = header.flags;
  record.token_count = header.token_count;
  record.next_position = header.next_position;
  record.layer_count = header.layer_count;
  record.restorable = static_cast<std::uint8_t>(header.restorable);
  record.restorable_from = header.restorable_from;
  std::uint32_t cursor = record.record_size;
  place<StreamRecord>(cursor, record, kStreams, header.streams.size());
  place<PartRecord>(cursor, record, kParts, header.parts.size());
  place<SegmentRecord>(cursor, record, kSegments, header.segments.size());
  place<IdentityRecord>(cursor, record, kIdentity, header.identity.values().size());
  *values_at = cursor;
  return record;
}

}  // namespace

std::optional<std::size_t> CardHeader::stream_index(std::uint32_t layer, StreamKind kind) const {
  for (std::size_t i = 0; i < streams.size(); ++i) {
    if (streams[i].layer == layer && streams[i].stream == static_cast<std::uint8_t>(kind)) return i;
  }
  return std::nullopt;
}

std::uint64_t row_bytes(const StreamRecord& stream, DType dtype) {
  const DTypeInfo& info = *dtype_info(dtype);
  return row_elements(stream) / info.block_elements * info.block_bytes;
}

Result<std::vector<std::byte>> encode_header(const CardHeader& header, const Limits& limits) {
  if (header.streams.size() > limits.stream_count || header.parts.size() > limits.stream_count ||
      header.segments.size() > limits.segment_count) {
    return Error{ErrorCode::kLimitExceeded, kNoOffset, "header", "too many streams, parts or segments"};
  }
  std::uint32_t value_at = 0;
  ByteWriter out;
  out.record(plan_record(header, &value_at));
  for (const auto& stream : header.streams) out.record(stream);
  for (const auto& part : header.parts) out.record(part);
  for (const auto& segment : header.segments) out.record(segment);
  for (const auto& value : header.identity.values()) {
    IdentityRecord row;
    row.field_id = value.field_id;
    row.value_type = static_cast<std::uint8_t>(value.type);
    row.value_offset = value_at;
    row.value_size = static_cast<std::uint32_t>(value.bytes.size());
    value_at += row.value_size;
    out.record(row);
  }
  for (const auto& value : header.identity.values()) out.text(value.bytes);
  if (out.size() > limits.header_bytes) {
    return Error{ErrorCode::kLimitExceeded, kNoOffset, "prologue.header_size",
                 found_allowed(out.size(), std::to_string(limits.header_bytes))};
  }
  std::vector<std::byte> bytes = out.take();
  // A writer's mistake must not become a card that no reader takes.
  if (auto back = parse_header(bytes, limits); !back) return back.error();
  return bytes;
}

Result<CardHeader> parse_header(std::span<const std::byte> bytes, const Limits& limits) {
  if (bytes.size() < encoded_size<HeaderRecord>()) {
    return Error{ErrorCode::kBadSize, kPrologueSize, "header", "shorter than its first record"};
  }
  const auto record = load<HeaderRecord>(bytes);
  if (Status s = check_record(record, bytes.size(), limits); !s) return s.error();
  auto streams = load_table<StreamRecord>(bytes, record, kStreams, limits.stream_count);
  if (!streams) return streams.error();
  auto parts = load_table<PartRecord>(bytes, record, kParts, limits.stream_count);
  if (!parts) return parts.error();
  auto segments = load_table<SegmentRecord>(bytes, record, kSegments, limits.segment_count);
  if (!segments) return segments.error();
  auto identity = load_identities(bytes, record);
  if (!identity) return identity.error();

  CardHeader header;
  header.flags = record.flags;
  header.token_count = record.token_count;
  header.next_position = record.next_position;
  header.layer_count = record.layer_count;
  header.restorable = static_cast<Restorable>(record.restorable);
  header.restorable_from = record.restorable_from;
  header.streams = std::move(*streams);
  header.parts = std::move(*parts);
  header.segments = std::move(*segments);
  header.identity = std::move(*identity);
  if (Status s = check_segments(header, kPrologueSize + record.segment_offset, record.segment_stride);
      !s) {
    return s.error();
  }
  if (Status s = check_streams(header, kPrologueSize + record.stream_offset, record.stream_stride,
                               kPrologueSize + record.part_offset, record.part_stride);
      !s) {
    return s.error();
  }
  return header;
}

}  // namespace cachecard
