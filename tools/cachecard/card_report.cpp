#include "card_report.hpp"

#include <fmt/format.h>

namespace cachecard::cli {
namespace {

/// Streams that are alike in all but their layer.
struct StreamGroup {
  Json record;
  std::vector<std::uint32_t> layers;
};

std::vector<StreamGroup> group_streams(const CardHeader& header) {
  std::vector<StreamGroup> groups;
  for (const StreamRecord& stream : header.streams) {
    Json record = record_json(stream);
    record.erase("layer");
    record.erase("part_first");  // where its parts stand in the table differs, the parts need not
    auto group = groups.begin();
    while (group != groups.end() && group->record != record) ++group;
    if (group == groups.end()) group = groups.insert(group, {std::move(record), {}});
    group->layers.push_back(stream.layer);
  }
  return groups;
}

std::string streams_text(const CardHeader& header) {
  std::vector<Json> rows;
  for (const StreamGroup& group : group_streams(header)) {
    Json row = {{"layers", ranges(group.layers)}};
    row.update(group.record);
    rows.push_back(std::move(row));
  }
  return objects_table(rows, {"kv_head_count", "head_dim", "dtype"});
}

Json streams_json(const CardHeader& header) {
  Json rows = Json::array();
  for (const StreamGroup& group : group_streams(header)) {
    Json row = {{"layers", group.layers}};
    row.update(group.record);
    rows.push_back(std::move(row));
  }
  return rows;
}

std::vector<Json> segment_rows(const CardHeader& header) {
  std::vector<Json> rows;
  for (const SegmentRecord& segment : header.segments) {
    Json row = {{"segment", rows.size()}};
    row.update(record_json(segment));
    rows.push_back(std::move(row));
  }
  return rows;
}

std::string identity_text(const Identity& identity) {
  Table table({{""}, {""}});
  for (const Identity::Value& value : identity.values()) {
    table.add({identity_name(value.field_id), format_identity_value(value)});
  }
  return table.empty() ? "  unknown\n" : table.text();
}

std::string restorable_text(const CardHeader& header) {
  std::string text(name_of(header.restorable));
  if (header.restorable == Restorable::kFromCount) {
    text += fmt::format(", from {} tokens on", grouped(header.restorable_from));
  }
  return text;
}

std::string version_of(const Prologue& prologue) {
  return fmt::format("{}.{}", prologue.format_major, prologue.format_minor);
}

std::string feature_text(const Prologue& prologue) {
  return fmt::format("required: {}; optional: {}", joined(required_feature_names(prologue.required_features)),
                     joined(optional_feature_names(prologue.optional_features)));
}

}  // namespace

std::string facts_text(const CardFacts& facts, const std::string& name) {
  const CardHeader& header = facts.header;
  const std::uint64_t size = facts.trailer.file_size;
  Facts lines;
  lines.add("card", name);
  lines.add("format", version_of(facts.prologue));
  lines.add("root", to_hex(facts.trailer.root));
  lines.add("size", exact_bytes(size));
  lines.add("tokens", grouped(header.token_count));
  lines.add("next position", std::to_string(header.next_position));
  lines.add("layers", grouped(header.layer_count));
  lines.add("restorable", restorable_text(header));
  lines.add("flags", joined(header_flag_names(header.flags)));
  lines.add("features", feature_text(facts.prologue));
  lines.add("values", grouped(facts.summary.value_count));
  lines.add("bits per value", bits_text(bits_per_value(size, facts.summary)));
  if (facts.summary.opaque_size > 0) {
    lines.add("opaque state", exact_bytes(facts.summary.opaque_size) + ", not in the ratio");
  }
  if (facts.summary.predicted_error > 0) {
    lines.add("predicted error", fmt::format("{:.2g} nats of KL of the next token, as the model profile has it", facts.summary.predicted_error));
  }
  std::string text = lines.text() + "\nidentity\n" + identity_text(header.identity);
  const auto add_table = [&](std::string_view title, const std::string& table) {
    if (!table.empty()) text += fmt::format("\n{}\n{}", title, table);
  };
  add_table("streams", streams_text(header));
  add_table("segments", objects_table(segment_rows(header), {"segment", "first_token"}));
  add_table("stages", stages_text(facts.summary, size, &facts.trailer));
  add_table("widths", widths_text(facts.summary));
  return text;
}

Json facts_json(const CardFacts& facts) {
  const CardHeader& header = facts.header;
  const std::uint64_t size = facts.trailer.file_size;
  Json object = {{"format_version", version_of(facts.prologue)},
                 {"root", to_hex(facts.trailer.root)},
                 {"file_bytes", size},
                 {"frame_count", facts.trailer.frame_count},
                 {"token_count", header.token_count},
                 {"next_position", header.next_position},
                 {"layer_count", header.layer_count},
                 {"restorable", name_of(header.restorable)},
                 {"restorable_from", header.restorable_from},
                 {"flags", header_flag_names(header.flags)},
                 {"required_features", required_feature_names(facts.prologue.required_features)},
                 {"optional_features", optional_feature_names(facts.prologue.optional_features)},
                 {"value_count", facts.summary.value_count},
                 {"opaque_bytes", facts.summary.opaque_size},
                 {"bits_per_value", bits_json(bits_per_value(size, facts.summary))},
                 {"predicted_error", facts.summary.predicted_error},
                 {"identity", identity_json(header.identity)},
                 {"streams", streams_json(header)},
                 {"segments", segment_rows(header)}};
  object.update(stages_json(facts.summary, size, &facts.trailer));
  object["widths"] = widths_json(facts.summary);
  return object;
}

}  // namespace cachecard::cli
