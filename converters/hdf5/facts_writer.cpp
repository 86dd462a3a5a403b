#include "facts_writer.hpp"

#include "h5_layout.hpp"

namespace cachecard::hdf5 {
namespace {

/// A text of any size as a dataset of one element.
Status write_text_array(const H5Node& parent, const std::string& name, std::string_view text) {
  const Handle type = text_type(text.size());
  std::string padded(text);
  padded.resize(std::max<std::size_t>(text.size(), 1));
  const std::uint64_t dims[] = {1};
  return write_array(parent, name, type.get(), dims, std::as_bytes(std::span(padded)));
}

Status write_header(const CardHeader& header, const H5Node& root) {
  auto group = create_group(root, "header");
  if (!group) return group.error();
  if (Status s = write_number(*group, "flags", header.flags); !s) return s;
  if (Status s = write_number(*group, "token_count", header.token_count); !s) return s;
  if (Status s = write_number(*group, "next_position", header.next_position); !s) return s;
  if (Status s = write_number(*group, "layer_count", header.layer_count); !s) return s;
  if (Status s = write_number(*group, "restorable", static_cast<std::uint8_t>(header.restorable)); !s) return s;
  if (Status s = write_number(*group, "restorable_from", header.restorable_from); !s) return s;
  if (Status s = write_records<StreamRecord>(*group, "stream", header.streams); !s) return s;
  if (Status s = write_records<PartRecord>(*group, "part", header.parts); !s) return s;
  return write_records<SegmentRecord>(*group, "segment", header.segments);
}

Status write_identity(const Identity& identity, const H5Node& root) {
  auto group = create_group(root, "identity");
  if (!group) return group.error();
  for (const Identity::Value& value : identity.values()) {
    const IdentityFieldInfo* info = identity_field_info(value.field_id);
    const std::string name = info == nullptr ? "field_" + std::to_string(value.field_id) : std::string(info->name);
    Status written;
    switch (value.type) {
      case ValueType::kText: written = write_text(*group, name, value.bytes); break;
      case ValueType::kU64: written = write_attribute(*group, name, H5T_STD_U64LE, value.bytes.data()); break;
      case ValueType::kF64: written = write_attribute(*group, name, H5T_IEEE_F64LE, value.bytes.data()); break;
      case ValueType::kDigest: {
        const Handle type = bytes_type(sizeof(Digest128));
        written = write_attribute(*group, name, type.get(), value.bytes.data());
        break;
      }
    }
    if (!written) return written;
  }
  return {};
}

Status write_tokens(const CardReader& card, const H5Node& root) {
  auto runs = card.positions();
  if (!runs) return runs.error();
  const std::vector<std::int32_t> positions = expand_positions(*runs);
  if (Status s = write_numbers<std::int32_t>(root, "positions", positions); !s) return s;
  if ((card.header().flags & kHeaderTokensUnknown) != 0) return {};
  auto ids = card.token_ids();
  if (!ids) return ids.error();
  return write_numbers<std::int32_t>(root, "token_ids", *ids);
}

Status write_map(const BitWidthMap& map, const H5Node& segment) {
  auto group = create_group(segment, "bit_width_map");
  if (!group) return group.error();
  if (Status s = write_numbers<std::uint8_t>(*group, "base", map.base); !s) return s;
  if (Status s = write_numbers<std::uint8_t>(*group, "cap", map.cap); !s) return s;
  if (Status s = write_numbers<std::uint16_t>(*group, "row_of", map.row_of); !s) return s;
  const std::uint64_t dims[] = {map.row_count(), map.token_count};
  return write_array(*group, "rows", H5T_STD_I8LE, dims, std::as_bytes(std::span(map.rows)));
}

Status write_segments(const CardReader& card, const H5Node& root) {
  auto segments = create_group(root, "segments");
  if (!segments) return segments.error();
  for (std::uint32_t i = 0; i < card.header().segments.size(); ++i) {
    const SegmentRecord& record = card.header().segments[i];
    auto group = create_group(*segments, numbered(i));
    if (!group) return group.error();
    if (Status s = write_number(*group, "first_token", record.first_token); !s) return s;
    if (Status s = write_number(*group, "token_count", record.token_count); !s) return s;
    auto map = card.map(i);
    if (!map) return map.error();
    if (Status s = write_map(*map, *group); !s) return s;
    const auto text = card.find(SectionType::kText, i);
    if (!text) continue;
    auto bytes = card.read_section(*text);
    if (!bytes) return bytes.error();
    const std::string_view view(reinterpret_cast<const char*>(bytes->data()), bytes->size());
    if (Status s = write_text_array(*group, "text", view); !s) return s;
  }
  return {};
}

Status write_rope_table(const RopeTable& table, const FrameHeader& frame, const H5Node& group) {
  if (Status s = write_number(group, "layer", frame.layer); !s) return s;
  if (Status s = write_number(group, "pairing", table.record.pairing); !s) return s;
  if (Status s = write_number(group, "rotated_offset", table.record.rotated_offset); !s) return s;
  if (Status s = write_number(group, "rotated_width", table.record.rotated_width); !s) return s;
  if (Status s = write_number(group, "magnitude", table.record.magnitude); !s) return s;
  return write_numbers<double>(group, "inverse_frequencies", table.inverse_frequencies);
}

Status write_rope_tables(const CardReader& card, const H5Node& root) {
  auto tables = create_group(root, "rope_tables");
  if (!tables) return tables.error();
  std::uint64_t count = 0;
  for (std::size_t i = 0; i < card.frames().size(); ++i) {
    const FrameHeader& frame = card.frames()[i];
    if (frame.section_type != static_cast<std::uint16_t>(SectionType::kRopeTable)) continue;
    auto payload = card.read_section(i);
    if (!payload) return payload.error();
    auto table = parse_rope_table(*payload);
    if (!table) return table.error();
    auto group = create_group(*tables, numbered(count++));
    if (!group) return group.error();
    if (Status s = write_rope_table(*table, frame, *group); !s) return s;
  }
  return {};
}

Status write_provenance(const CardReader& card, const H5Node& root) {
  auto entries = card.provenance();
  if (!entries) return entries.error();
  auto group = create_group(root, "provenance");
  if (!group) return group.error();
  // The section's own parts: its steps point into its text.
  const std::vector<std::byte> payload = encode_provenance(*entries);
  const auto record = load<ProvenanceHeader>(payload);
  std::vector<ProvenanceStep> steps;
  std::span<const std::byte> rest = std::span<const std::byte>(payload).subspan(record.record_size);
  for (std::uint32_t i = 0; i < record.step_count; ++i) {
    steps.push_back(load<ProvenanceStep>(rest));
    rest = rest.subspan(record.step_stride);
  }
  if (Status s = write_records<ProvenanceStep>(*group, "provenance_step", steps); !s) return s;
  return write_text_array(*group, "text", {reinterpret_cast<const char*>(rest.data()), rest.size()});
}

}  // namespace

Status write_facts(const CardReader& card, const H5Node& root) {
  if (Status s = write_number(root, "format_major", card.prologue().format_major); !s) return s;
  if (Status s = write_number(root, "format_minor", card.prologue().format_minor); !s) return s;
  if (Status s = write_digest(root, "root", card.trailer().root); !s) return s;
  if (Status s = write_header(card.header(), root); !s) return s;
  if (Status s = write_identity(card.header().identity, root); !s) return s;
  if (Status s = write_tokens(card, root); !s) return s;
  if (Status s = write_segments(card, root); !s) return s;
  if (Status s = write_rope_tables(card, root); !s) return s;
  return write_provenance(card, root);
}

Status write_stream_facts(const StreamRecord& stream, const H5Node& group) {
  const auto dtype = static_cast<DType>(stream.dtype);
  if (Status s = write_number(group, "layer", stream.layer); !s) return s;
  if (Status s = write_text(group, "dtype", name_of(dtype)); !s) return s;
  if (is_opaque(stream)) return write_number(group, "opaque_size", stream.opaque_size);
  if (Status s = write_text(group, "rope_state", name_of(static_cast<RopeState>(stream.rope_state))); !s) return s;
  const auto pairing = static_cast<RopePairing>(stream.rope_pairing);
  if (Status s = write_text(group, "rope_pairing", name_of(pairing)); !s) return s;
  if (Status s = write_number(group, "kv_head_count", stream.kv_head_count); !s) return s;
  if (Status s = write_number(group, "head_dim", stream.head_dim); !s) return s;
  if (Status s = write_number(group, "hadamard_size", stream.hadamard_size); !s) return s;
  if (Status s = write_number(group, "window", stream.window); !s) return s;
  if (Status s = write_number(group, "first_token", stream.first_token); !s) return s;
  return write_number(group, "token_count", stream.token_count);
}

}  // namespace cachecard::hdf5
