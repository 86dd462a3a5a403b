#include "output.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace cachecard::cli {
namespace {

template <class Enum>
Json enum_json(std::uint64_t number) {
  const std::string_view name = name_of(static_cast<Enum>(number));
  return name == "unknown" ? Json(number) : Json(name);
}

Json frame_flags(std::uint64_t flags) {
  Json names = Json::array();
  if ((flags & kFrameRequired) != 0) names.push_back("required");
  if ((flags & kFrameCopySafe) != 0) names.push_back("copy_safe");
  return names;
}

struct BitName {
  std::uint64_t bit;
  std::string_view name;
};
constexpr BitName kRequiredNames[] = {{kFeatureGgml, "ggml"}, {kFeatureZstd, "zstd"}};
constexpr BitName kOptionalNames[] = {{kFeatureText, "text"},
                                      {kFeatureMedia, "media"},
                                      {kFeatureSourceLayout, "source_layout"},
                                      {kFeatureCanary, "canary"}};
constexpr BitName kHeaderNames[] = {{kHeaderNotAPrefix, "not_a_prefix"},
                                    {kHeaderPartialLayers, "partial_layers"},
                                    {kHeaderTokensUnknown, "tokens_unknown"}};

std::vector<std::string> bit_names(std::uint64_t bits, std::span<const BitName> names) {
  std::vector<std::string> out;
  for (int i = 0; i < 64; ++i) {
    const std::uint64_t bit = std::uint64_t{1} << i;
    if ((bits & bit) == 0) continue;
    const auto known =
        std::find_if(names.begin(), names.end(), [&](const BitName& name) { return name.bit == bit; });
    out.push_back(known != names.end() ? std::string(known->name) : fmt::format("bit_{}", i));
  }
  return out;
}

bool is_dull(const Json& value, std::string_view column) {
  if (value.is_null() || value == "none" || value == 0 || value == "") return true;
  return column == "hadamard_size" && value == 1;
}

std::uint64_t stage_bytes(const SummaryStage& stage) { return stage.stored_size + stage.framing_size; }

struct NamedSize {
  std::string name;
  std::uint64_t size;
};

/// Bytes that the summary does not count. Needs: offsets of a checked trailer.
std::vector<NamedSize> rest_of(const Summary& summary, std::uint64_t file_size, const Trailer* trailer) {
  std::uint64_t counted = 0;
  for (const SummaryStage& stage : summary.stages) counted += stage_bytes(stage);
  const std::uint64_t rest = file_size - std::min(counted, file_size);
  if (trailer == nullptr) return {{"header, summary, directory, trailer", rest}};
  const std::uint64_t end = file_size - encoded_size<Trailer>();
  const std::uint64_t directory = end - trailer->directory_offset;
  const std::uint64_t summed = trailer->directory_offset - trailer->summary_offset;
  const std::uint64_t ends = encoded_size<Prologue>() + summed + directory + encoded_size<Trailer>();
  return {{"prologue", encoded_size<Prologue>()},
          {"header", rest - std::min(ends, rest)},
          {"summary", summed},
          {"directory", directory},
          {"trailer", encoded_size<Trailer>()}};
}

bool has_codec(const SummaryStage& stage) {
  return stage.section_type == static_cast<std::uint16_t>(SectionType::kChunk);
}

std::uint64_t values_of(const Summary& summary, std::uint8_t stream) {
  std::uint64_t count = 0;
  for (const SummaryWidth& width : summary.widths) {
    if (width.stream == stream) count += width.value_count;
  }
  return count;
}

}  // namespace

Json field_json(std::string_view record, std::string_view field, std::uint64_t number) {
  if (field == "layer") return number == kNoLayer ? Json() : Json(number);
  if (field == "segment") return number == kNoSegment ? Json() : Json(number);
  if (field == "stream") return number == kNoStream ? Json() : enum_json<StreamKind>(number);
  if (field == "section_type") return enum_json<SectionType>(number);
  if (field == "codec") return enum_json<Codec>(number);
  if (field == "compressor") return enum_json<Compressor>(number);
  if (field == "dtype") return enum_json<DType>(number);
  if (field == "rope_state") return enum_json<RopeState>(number);
  if (field == "rope_pairing" || field == "pairing") return enum_json<RopePairing>(number);
  if (field == "chunk_order") return enum_json<ChunkOrder>(number);
  if (field == "flags" && record == Layout<FrameHeader>::name) return frame_flags(number);
  if (field.ends_with("_digest")) return number == 0 ? Json() : Json(fmt::format("{:016x}", number));
  if (field == "check") return fmt::format("{:08x}", number);
  return number;
}

Json bytes_json(std::span<const std::uint8_t> bytes) {
  std::string hex;
  for (std::uint8_t b : bytes) hex += fmt::format("{:02x}", b);
  return hex;
}

std::string cell(const Json& value) {
  if (value.is_null()) return "-";
  if (value.is_string()) return value.get<std::string>();
  if (value.is_number_float()) return fmt::format("{:g}", value.get<double>());
  if (!value.is_array()) return value.dump();
  std::vector<std::string> parts;
  for (const Json& part : value) parts.push_back(cell(part));
  return joined(parts);
}

std::string objects_table(const std::vector<Json>& objects, const std::vector<std::string_view>& keep) {
  if (objects.empty()) return {};
  std::vector<Table::Column> columns;
  std::vector<std::string> keys;
  for (const auto& [key, first] : objects.front().items()) {
    const std::string_view name = key;
    const bool kept = std::find(keep.begin(), keep.end(), name) != keep.end();
    const bool dull = std::all_of(objects.begin(), objects.end(), [&](const Json& object) {
      return is_dull(object.at(std::string(name)), name);
    });
    if (dull && !kept) continue;
    const bool number = std::any_of(objects.begin(), objects.end(), [&](const Json& object) {
      return object.at(std::string(name)).is_number();
    });
    columns.push_back({key, number ? Table::Align::kRight : Table::Align::kLeft});
    keys.push_back(key);
  }
  Table table(std::move(columns));
  for (const Json& object : objects) {
    std::vector<std::string> cells;
    for (const std::string& key : keys) cells.push_back(cell(object.at(key)));
    table.add(std::move(cells));
  }
  return table.text();
}

std::vector<std::string> required_feature_names(std::uint64_t bits) {
  return bit_names(bits, kRequiredNames);
}
std::vector<std::string> optional_feature_names(std::uint64_t bits) {
  return bit_names(bits, kOptionalNames);
}
std::vector<std::string> header_flag_names(std::uint32_t flags) { return bit_names(flags, kHeaderNames); }

std::string joined(const std::vector<std::string>& names) {
  std::string out;
  for (const std::string& name : names) out += (out.empty() ? "" : ", ") + name;
  return out.empty() ? "none" : out;
}

std::optional<double> bits_per_value(std::uint64_t file_size, const Summary& summary) {
  if (summary.value_count == 0) return std::nullopt;
  const std::uint64_t bytes = file_size - std::min(summary.opaque_size, file_size);
  return 8.0 * double(bytes) / double(summary.value_count);
}

std::string bits_text(std::optional<double> bits) { return bits ? fmt::format("{:.3f}", *bits) : "-"; }

Json bits_json(std::optional<double> bits) { return bits ? Json(*bits) : Json(); }

std::string stages_text(const Summary& summary, std::uint64_t file_size, const Trailer* trailer) {
  constexpr auto kRight = Table::Align::kRight;
  const auto share = [&](std::uint64_t size) { return percent(double(size), double(file_size)); };
  Table table({{"section_type"},
               {"codec"},
               {"compressor"},
               {"frame_count", kRight},
               {"stored_size", kRight},
               {"decoded_size", kRight},
               {"framing_size", kRight},
               {"share", kRight}});
  for (const SummaryStage& stage : summary.stages) {
    const Json record = record_json(stage);
    table.add({cell(record["section_type"]), has_codec(stage) ? cell(record["codec"]) : "-",
               cell(record["compressor"]), grouped(stage.frame_count), grouped(stage.stored_size),
               grouped(stage.decoded_size), grouped(stage.framing_size), share(stage_bytes(stage))});
  }
  for (const NamedSize& row : rest_of(summary, file_size, trailer)) {
    table.add({row.name, "-", "-", "-", "-", "-", grouped(row.size), share(row.size)});
  }
  return table.text();
}

Json stages_json(const Summary& summary, std::uint64_t file_size, const Trailer* trailer) {
  Json stages = Json::array();
  for (const SummaryStage& stage : summary.stages) {
    Json object = record_json(stage);
    if (!has_codec(stage)) object["codec"] = nullptr;
    object["share"] = double(stage_bytes(stage)) / double(std::max<std::uint64_t>(file_size, 1));
    stages.push_back(std::move(object));
  }
  Json rest = Json::object();
  for (const NamedSize& row : rest_of(summary, file_size, trailer)) rest[row.name] = row.size;
  return {{"stages", std::move(stages)}, {"rest", std::move(rest)}};
}

std::string widths_text(const Summary& summary) {
  Table table({{"stream"},
               {"width", Table::Align::kRight},
               {"value_count", Table::Align::kRight},
               {"share", Table::Align::kRight}});
  for (const SummaryWidth& width : summary.widths) {
    const Json record = record_json(width);
    table.add({cell(record["stream"]), fmt::format("{:g} bits", width.width / 2.0),
               grouped(width.value_count),
               percent(double(width.value_count), double(values_of(summary, width.stream)))});
  }
  return table.empty() ? std::string() : table.text();
}

Json widths_json(const Summary& summary) {
  Json widths = Json::array();
  for (const SummaryWidth& width : summary.widths) widths.push_back(record_json(width));
  return widths;
}

std::string identity_name(std::uint16_t field_id) {
  const IdentityFieldInfo* info = identity_field_info(field_id);
  return info != nullptr ? std::string(info->name) : fmt::format("field_{}", field_id);
}

Json identity_json(const Identity& identity) {
  Json object = Json::object();
  for (const Identity::Value& value : identity.values()) {
    const auto field = static_cast<IdentityField>(value.field_id);
    Json& out = object[identity_name(value.field_id)];
    out = format_identity_value(value);
    if (value.type == ValueType::kU64 && identity.u64(field)) out = *identity.u64(field);
    if (value.type == ValueType::kF64 && identity.f64(field)) out = *identity.f64(field);
  }
  return object;
}

}  // namespace cachecard::cli
