#include "facts_reader.hpp"

#include "h5_array.hpp"
#include "h5_layout.hpp"

namespace cachecard::hdf5 {
namespace {

constexpr std::uint64_t kMaxPairs = 1u << 16;  ///< of a RoPE table: half a head

Result<CardHeader> read_header(const H5Node& root, const Limits& limits) {
  auto group = open_group(root, "header");
  if (!group) return group.error();
  auto flags = read_number<std::uint32_t>(*group, "flags");
  if (!flags) return flags.error();
  auto token_count = read_number<std::uint64_t>(*group, "token_count");
  if (!token_count) return token_count.error();
  auto next_position = read_number<std::int64_t>(*group, "next_position");
  if (!next_position) return next_position.error();
  auto layer_count = read_number<std::uint32_t>(*group, "layer_count");
  if (!layer_count) return layer_count.error();
  auto restorable = read_number<std::uint8_t>(*group, "restorable");
  if (!restorable) return restorable.error();
  auto restorable_from = read_number<std::uint64_t>(*group, "restorable_from");
  if (!restorable_from) return restorable_from.error();
  auto streams = read_records<StreamRecord>(*group, "stream", at_most(limits.stream_count));
  if (!streams) return streams.error();
  auto parts = read_records<PartRecord>(*group, "part", at_most(limits.header_bytes / encoded_size<PartRecord>()));
  if (!parts) return parts.error();
  auto segments = read_records<SegmentRecord>(*group, "segment", {1, limits.segment_count});
  if (!segments) return segments.error();
  CardHeader header;
  header.flags = *flags;
  header.token_count = *token_count;
  header.next_position = *next_position;
  header.layer_count = *layer_count;
  header.restorable = static_cast<Restorable>(*restorable);
  header.restorable_from = *restorable_from;
  header.streams = std::move(*streams);
  header.parts = std::move(*parts);
  header.segments = std::move(*segments);
  return header;
}

Status read_identity_field(const H5Node& group, const IdentityFieldInfo& info, const Limits& limits, Identity& out) {
  const std::string name(info.name);
  switch (info.type) {
    case ValueType::kText: {
      auto text = read_text(group, name, limits.header_bytes);
      if (!text) return text.error();
      out.set_text(info.field, *text);
      return {};
    }
    case ValueType::kU64: {
      auto number = read_number<std::uint64_t>(group, name);
      if (!number) return number.error();
      out.set_u64(info.field, *number);
      return {};
    }
    case ValueType::kF64: {
      auto number = read_number<double>(group, name);
      if (!number) return number.error();
      out.set_f64(info.field, *number);
      return {};
    }
    case ValueType::kDigest: {
      auto digest = read_digest(group, name);
      if (!digest) return digest.error();
      out.set_digest(info.field, *digest);
      return {};
    }
  }
  return {};
}

Status read_identity(const H5Node& root, const Limits& limits, Identity& out) {
  auto group = open_group(root, "identity");
  if (!group) return group.error();
  for (const IdentityFieldInfo& info : identity_fields()) {
    auto there = has_attribute(*group, std::string(info.name));
    if (!there) return there.error();
    if (!*there) continue;
    if (Status s = read_identity_field(*group, info, limits, out); !s) return s;
  }
  return {};
}

/// A group that may be missing.
Result<std::optional<H5Node>> open_optional_group(const H5Node& parent, const std::string& name) {
  auto there = has_link(parent, name);
  if (!there) return there.error();
  if (!*there) return std::optional<H5Node>();
  auto group = open_group(parent, name);
  if (!group) return group.error();
  return std::optional<H5Node>(std::move(*group));
}

Status read_rope_tables(const H5Node& root, FileFacts& facts) {
  auto tables = open_optional_group(root, "rope_tables");
  if (!tables) return tables.error();
  if (!*tables) return {};
  auto first = open_optional_group(**tables, numbered(0));
  if (!first) return first.error();
  auto second = open_optional_group(**tables, numbered(1));
  if (!second) return second.error();
  if (!*first) return {};
  const std::optional<H5Node>& group = *first;
  auto layer = read_number<std::uint32_t>(*group, "layer");
  if (!layer) return layer.error();
  if (*layer != kNoLayer || *second) {
    facts.left_out.emplace_back("rope_tables (more than one for the whole card)");
    return {};
  }
  RopeTable table;
  auto pairing = read_number<std::uint8_t>(*group, "pairing");
  if (!pairing) return pairing.error();
  auto offset = read_number<std::uint32_t>(*group, "rotated_offset");
  if (!offset) return offset.error();
  auto width = read_number<std::uint32_t>(*group, "rotated_width");
  if (!width) return width.error();
  auto magnitude = read_number<double>(*group, "magnitude");
  if (!magnitude) return magnitude.error();
  auto frequencies = read_numbers<double>(*group, "inverse_frequencies", at_most(kMaxPairs));
  if (!frequencies) return frequencies.error();
  table.record.pairing = *pairing;
  table.record.rotated_offset = *offset;
  table.record.rotated_width = *width;
  table.record.pair_count = static_cast<std::uint32_t>(frequencies->size());
  table.record.magnitude = *magnitude;
  table.inverse_frequencies = std::move(*frequencies);
  auto checked = parse_rope_table(encode_rope_table(table));
  if (!checked) return Error{checked.error().code, kNoOffset, group->path, checked.error().message()};
  facts.rope_table = std::move(table);
  return {};
}

/// One element whose type is a text of its size.
Status read_segment_text(const H5Node& segment, const Limits& limits, std::string& out) {
  auto node = open_dataset(segment, "text");
  if (!node) return node.error();
  const Handle found(H5Dget_type(node->id.get()), H5Tclose);
  const std::size_t size = H5Tget_size(found.get());
  if (H5Tget_class(found.get()) != H5T_STRING || H5Tis_variable_str(found.get()) != 0 || size > limits.section_bytes) {
    return h5_refusal(node->path, "found " + type_text(found.get()) + ", allowed is text of a fixed length up to " +
                                      std::to_string(limits.section_bytes) + " bytes");
  }
  const hid_t type = found.get();
  const Extent one = exactly(1);
  auto array = H5Array::open(segment, "text", {&type, 1}, {&one, 1});
  if (!array) return array.error();
  out.resize(size);
  if (Status s = array->read_rows(0, 1, std::as_writable_bytes(std::span(out))); !s) return s;
  while (!out.empty() && out.back() == '\0') out.pop_back();
  return {};
}

Status read_text_of_segments(const H5Node& root, const Limits& limits, FileFacts& facts) {
  auto segments = open_optional_group(root, "segments");
  if (!segments) return segments.error();
  for (std::size_t i = 0; *segments && i < facts.header.segments.size(); ++i) {
    auto segment = open_optional_group(**segments, numbered(i));
    if (!segment) return segment.error();
    if (!*segment) continue;
    auto there = has_link(**segment, "text");
    if (!there) return there.error();
    if (!*there) continue;
    if (i > 0) {
      facts.left_out.emplace_back("text (of later segments)");
      return {};
    }
    if (Status s = read_segment_text(**segment, limits, facts.text); !s) return s;
  }
  return {};
}

}  // namespace

Result<FileFacts> read_file_facts(const H5Node& root, const Limits& limits) {
  FileFacts facts;
  auto header = read_header(root, limits);
  if (!header) return header.error();
  facts.header = std::move(*header);
  if (Status s = read_identity(root, limits, facts.header.identity); !s) return s.error();
  // All that a card's reader would refuse in a header, before a count of it sizes anything.
  auto encoded = encode_header(facts.header, limits);
  if (!encoded) {
    return Error{encoded.error().code, kNoOffset, "/header", encoded.error().message()};
  }
  const Extent tokens = exactly(facts.header.token_count);
  auto positions = read_numbers<std::int32_t>(root, "positions", tokens);
  if (!positions) return positions.error();
  facts.positions = std::move(*positions);
  if ((facts.header.flags & kHeaderTokensUnknown) == 0) {
    auto ids = read_numbers<std::int32_t>(root, "token_ids", tokens);
    if (!ids) return ids.error();
    facts.token_ids = std::move(*ids);
  }
  if (Status s = read_rope_tables(root, facts); !s) return s.error();
  if (Status s = read_text_of_segments(root, limits, facts); !s) return s.error();
  return facts;
}

}  // namespace cachecard::hdf5
