#include <fmt/format.h>

#include <ctime>

#include "card_report.hpp"
#include "context.hpp"
#include "map_report.hpp"
#include "state_report.hpp"

namespace cachecard::cli {
namespace {

std::string operation_name(ProvenanceOp operation) {
  switch (operation) {
    case ProvenanceOp::kConvert:
      return "convert";
    case ProvenanceOp::kCapture:
      return "capture";
    case ProvenanceOp::kTrim:
      return "trim";
    case ProvenanceOp::kExtend:
      return "extend";
    case ProvenanceOp::kRequantize:
      return "requantize";
    case ProvenanceOp::kCalibrate:
      return "calibrate";
  }
  return fmt::format("operation_{}", static_cast<unsigned>(operation));
}

Json time_json(std::int64_t time) {
  std::tm parts{};
  const std::time_t seconds = time;
  if (time == 0 || ::gmtime_r(&seconds, &parts) == nullptr) return nullptr;
  char text[64];
  const std::size_t size = std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return std::string(text, size);
}

Result<std::vector<Json>> provenance_rows(const CardReader& card) {
  std::vector<Json> rows;
  if (!card.find(SectionType::kProvenance)) return rows;
  auto entries = card.provenance();
  if (!entries) return entries.error();
  for (const ProvenanceEntry& entry : *entries) {
    const bool parent = entry.parent_root != Digest128{};
    rows.push_back({{"hop", entry.hop},
                    {"operation", operation_name(entry.operation)},
                    {"time", time_json(entry.time)},
                    {"parent_root", parent ? Json(to_hex(entry.parent_root)) : Json()},
                    {"text", entry.text}});
  }
  return rows;
}

Result<std::vector<Json>> source_layout_rows(const CardReader& card) {
  std::vector<Json> rows;
  auto layout = card.source_layout();
  if (!layout) return layout.error();
  if (!*layout) return rows;
  Json row = record_json((*layout)->record);
  if ((*layout)->record.family == static_cast<std::uint16_t>(SourceFamily::kLlamaCpp)) {
    row["family"] = "llama.cpp";
    row["container"] = container_name(static_cast<LlamaContainer>((*layout)->record.container));
  }
  rows.push_back(std::move(row));
  return rows;
}

Result<std::vector<Json>> stream_rows(const CardReader& card) {
  std::vector<Json> rows;
  for (std::size_t s = 0; s < card.header().streams.size(); ++s) {
    const StreamRecord& stream = card.header().streams[s];
    Json row = record_json(stream);
    std::uint64_t stored = 0;
    for (std::uint32_t frame : card.chunks(s)) stored += card.frames()[frame].stored_size;
    const std::uint64_t values = stream.token_count * row_elements(stream);
    row["chunk_count"] = card.chunks(s).size();
    row["stored_size"] = stored;
    row["bits_per_value"] = values == 0 ? Json() : Json(8.0 * double(stored) / double(values));
    rows.push_back(std::move(row));
  }
  return rows;
}

std::vector<Json> section_rows(const CardReader& card) {
  std::vector<Json> rows;
  for (const FrameHeader& frame : card.frames()) {
    Json row = {{"offset", frame.offset}};
    row.update(record_json(frame));
    row.erase("check");
    if (frame.section_type != static_cast<std::uint16_t>(SectionType::kChunk)) {
      row["codec"] = nullptr;
      row["dtype"] = nullptr;
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

Result<Json> text_json(const CardReader& card) {
  std::string text;
  bool found = false;
  for (std::size_t frame = 0; frame < card.frames().size(); ++frame) {
    const auto type = static_cast<SectionType>(card.frames()[frame].section_type);
    if (type != SectionType::kText) continue;
    auto bytes = card.read_section(frame);
    if (!bytes) return bytes.error();
    text.append(reinterpret_cast<const char*>(bytes->data()), bytes->size());
    found = true;
  }
  return found ? Json(text) : Json();
}

Result<std::vector<Json>> position_rows(const CardReader& card) {
  auto runs = card.positions();
  if (!runs) return runs.error();
  std::vector<Json> rows;
  for (const PositionRun& run : *runs) rows.push_back(record_json(run));
  return rows;
}

/// Ten ids on a line behind the index of the first.
std::string ids_text(const std::vector<std::int32_t>& ids) {
  std::string text;
  for (std::size_t i = 0; i < ids.size(); i += 10) {
    text += fmt::format("  {:>7} ", fmt::format("{}:", i));
    for (std::size_t j = i; j < std::min(i + 10, ids.size()); ++j) {
      text += fmt::format(" {:>6}", ids[j]);
    }
    text += '\n';
  }
  return text;
}

/// The rendered text as it is, line by line.
std::string indented(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    out += "  " + printable(text.substr(0, end)) + "\n";
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return out;
}

/// A part of details: its JSON value, and its text where that is not the rows as a table.
struct Detail {
  std::string name;
  Json value;
  std::string text;
};

Status add_token_details(const CardReader& card, std::vector<Detail>& details) {
  const bool unknown = (card.header().flags & kHeaderTokensUnknown) != 0;
  Result<std::vector<std::int32_t>> ids = std::vector<std::int32_t>();
  if (!unknown) ids = card.token_ids();
  if (!ids) return ids.error();
  details.push_back({"token_ids", unknown ? Json() : Json(*ids),
                     unknown        ? "  unknown\n"
                     : ids->empty() ? "  none\n"
                                    : ids_text(*ids)});
  auto positions = position_rows(card);
  if (!positions) return positions.error();
  details.push_back({"positions", *positions, objects_table(*positions, {"first_position", "step"})});
  auto text = text_json(card);
  if (!text) return text.error();
  if (!text->is_null()) {
    details.push_back({"text", *text, indented(text->get<std::string>())});
  }
  return {};
}

Status add_rows(std::string name, Result<std::vector<Json>> rows, std::vector<Detail>& details,
                const std::vector<std::string_view>& keep = {}) {
  if (!rows) return rows.error();
  std::string text = rows->empty() ? "  none\n" : objects_table(*rows, keep);
  details.push_back({std::move(name), std::move(*rows), std::move(text)});
  return {};
}

Result<std::vector<Detail>> details_of(const CardReader& card, const DetailOptions& options) {
  std::vector<Detail> details;
  Status s;
  if (options.streams) s = add_rows("all_streams", stream_rows(card), details, {"layer"});
  if (s && options.map) s = add_rows("map", map_rows(card), details, {"first_token", "offset"});
  if (s && options.tokens) s = add_token_details(card, details);
  if (s && options.sections) s = add_rows("sections", section_rows(card), details);
  if (s && options.provenance) s = add_rows("provenance", provenance_rows(card), details, {"hop"});
  if (s && options.source_layout) s = add_rows("source_layout", source_layout_rows(card), details);
  if (!s) return s.error();
  return details;
}

}  // namespace

Result<std::string> details_text(const CardReader& card, const DetailOptions& options) {
  auto details = details_of(card, options);
  if (!details) return details.error();
  std::string text;
  for (const Detail& detail : *details) text += fmt::format("\n{}\n{}", detail.name, detail.text);
  return text;
}

Status add_details(const CardReader& card, const DetailOptions& options, Json& object) {
  auto details = details_of(card, options);
  if (!details) return details.error();
  for (Detail& detail : *details) object[detail.name] = std::move(detail.value);
  return {};
}

}  // namespace cachecard::cli
