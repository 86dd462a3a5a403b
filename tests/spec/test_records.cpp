#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <regex>
#include <set>

#include "cachecard/card.hpp"
#include "cachecard/records.hpp"
#include "format/section_rules.hpp"
#include "spec_file.hpp"

/// The tables of spec/ against the code's: any difference, either way, fails.
namespace cachecard {
namespace {

using spec::Row;
using spec::Table;

const std::string& format_text() {
  static const std::string text = spec::read_spec("FORMAT.md");
  return text;
}

template <class Member>
struct TypeName {
  static std::string get() {
    if constexpr (std::is_floating_point_v<Member>) return sizeof(Member) == 8 ? "f64" : "f32";
    return (std::is_signed_v<Member> ? "i" : "u") + std::to_string(8 * sizeof(Member));
  }
};
template <std::size_t N>
struct TypeName<std::array<std::uint8_t, N>> {
  static std::string get() { return "u8[" + std::to_string(N) + "]"; }
};

std::string rule_name(Rule rule) {
  switch (rule) {
    case Rule::kValue:
      return "value";
    case Rule::kConstant:
      return "constant";
    case Rule::kReservedZero:
      return "reserved_zero";
  }
  return "?";
}

/// Rows of a record as the spec writes them: offset, size, type, name, rule, since.
template <class Record>
std::vector<Row> record_rows() {
  std::vector<Row> rows;
  for_each_field<Record>([&](const auto& f, std::size_t offset) {
    using Member = std::remove_cvref_t<decltype(std::declval<Record&>().*(f.member))>;
    rows.push_back({std::to_string(offset), std::to_string(sizeof(Member)), TypeName<Member>::get(),
                    std::string(f.name), rule_name(f.rule), "0." + std::to_string(f.since_minor)});
  });
  return rows;
}

std::uint64_t number(const std::string& text) {
  INFO(text);
  std::size_t used = 0;
  const std::uint64_t value = std::stoull(text, &used);
  CHECK(used == text.size());
  return value;
}

/// Rows of a table cut to its first `count` columns.
std::vector<Row> first_columns(const Table& table, std::size_t count) {
  std::vector<Row> rows;
  for (const Row& row : table.rows)
    rows.emplace_back(row.begin(), row.begin() + static_cast<std::ptrdiff_t>(count));
  return rows;
}

std::string in_hex(std::span<const std::uint8_t> bytes) {
  std::string text;
  for (const std::uint8_t b : bytes) {
    char two[4];
    std::snprintf(two, sizeof(two), "%02X", b);
    text += (text.empty() ? "" : " ") + std::string(two);
  }
  return text;
}

template <class Enum>
void check_names(const Table& table, std::size_t count) {
  CHECK(table.rows.size() == count);
  for (const Row& row : table.rows) {
    const auto value = static_cast<Enum>(number(table.cell(row, "id")));
    CHECK(table.cell(row, "name") == name_of(value));
  }
}

}  // namespace

TEST_CASE("every record of the code is in FORMAT.md, field by field") {
  const auto tables =
      spec::tables_with(format_text(), {"offset", "size", "type", "name", "rule", "since", "meaning"});
  std::set<std::string> seen;
  for_each_record([&]<class Record>() {
    const std::string name(Layout<Record>::name);
    INFO("record " << name);
    seen.insert(name);
    const auto table = tables.find(name);
    REQUIRE(table != tables.end());
    const auto expected = record_rows<Record>();
    const auto found = first_columns(table->second, 6);
    for (std::size_t i = 0; i < std::max(expected.size(), found.size()); ++i) {
      INFO("row " << i);
      CHECK((i < found.size() ? found[i] : Row{}) == (i < expected.size() ? expected[i] : Row{}));
    }
  });
  for (const auto& [name, table] : tables) {
    INFO("table " << name << " of FORMAT.md has no record");
    CHECK(seen.contains(name));
  }
}

TEST_CASE("the constants of FORMAT.md are the code's") {
  CHECK(format_text().find("`" + in_hex(kMagic) + "`") != std::string::npos);
  CHECK(format_text().find("`" + in_hex(kEndMagic) + "`") != std::string::npos);
  CHECK(format_text().find("`format_major.format_minor` is " + std::to_string(kFormatMajor) + "." +
                           std::to_string(kFormatMinor) + ".") != std::string::npos);
}

TEST_CASE("section types of FORMAT.md are the code's") {
  const Table table = spec::table_under(format_text(), "Section types");
  std::uint64_t previous = 0;
  for (const Row& row : table.rows) {
    const auto id = static_cast<std::uint16_t>(number(table.cell(row, "id")));
    INFO("section type " << id);
    CHECK(id == previous + 1);
    previous = id;
    const SectionRule* rule = section_rule(id);
    REQUIRE(rule != nullptr);
    CHECK(table.cell(row, "name") == name_of(rule->type));
    std::string flags = (rule->flags & kFrameRequired) != 0 ? "required" : "";
    if ((rule->flags & kFrameCopySafe) != 0) flags += flags.empty() ? "copy_safe" : ", copy_safe";
    CHECK(table.cell(row, "flags") == (flags.empty() ? "-" : flags));
    const std::string scope = rule->scope == Scope::kCard      ? "card"
                              : rule->scope == Scope::kSegment ? "segment"
                                                               : "stream";
    CHECK(table.cell(row, "scope") == scope);
    CHECK(table.cell(row, "once") == (rule->once ? "yes" : "no"));
    const std::string spans = rule->scope == Scope::kStream ? "own" : rule->spans_segment ? "yes" : "no";
    CHECK(table.cell(row, "spans") == spans);
    const std::string feature = rule->optional_feature == kFeatureText           ? "text"
                                : rule->optional_feature == kFeatureMedia        ? "media"
                                : rule->optional_feature == kFeatureSourceLayout ? "source_layout"
                                : rule->optional_feature == kFeatureCanary       ? "canary"
                                : rule->required_feature == kFeatureEntropy      ? "entropy"
                                                                                 : "-";
    CHECK(table.cell(row, "feature") == feature);
    CHECK((rule->required_feature & ~kFeatureEntropy) == 0);  // chunks and compressors have theirs: FORMAT.md#features
  }
  for (std::uint32_t id = 0; id < 65536; ++id) {
    if (id == 0 || id > previous) CHECK(section_rule(static_cast<std::uint16_t>(id)) == nullptr);
  }
}

TEST_CASE("features and flags of FORMAT.md are the code's") {
  const std::map<std::string, std::uint64_t> known{{"required ggml", kFeatureGgml},
                                                   {"required zstd", kFeatureZstd},
                                                   {"required planes", kFeaturePlanes},
                                                   {"required entropy", kFeatureEntropy},
                                                   {"optional text", kFeatureText},
                                                   {"optional media", kFeatureMedia},
                                                   {"optional source_layout", kFeatureSourceLayout},
                                                   {"optional canary", kFeatureCanary}};
  const Table table = spec::table_under(format_text(), "Features");
  CHECK(table.rows.size() == known.size());
  std::uint64_t required = 0;
  for (const Row& row : table.rows) {
    const std::string name = table.cell(row, "kind") + " " + table.cell(row, "name");
    INFO(name);
    const std::uint64_t bit = std::uint64_t{1} << number(table.cell(row, "bit"));
    REQUIRE(known.contains(name));
    CHECK(known.at(name) == bit);
    if (table.cell(row, "kind") == "required") required |= bit;
  }
  CHECK(required == kRequiredFeaturesKnown);

  const std::map<std::string, std::uint32_t> flags{{"not_a_prefix", kHeaderNotAPrefix},
                                                   {"partial_layers", kHeaderPartialLayers},
                                                   {"tokens_unknown", kHeaderTokensUnknown}};
  const Table header = spec::table_under(format_text(), "Header flags");
  std::uint32_t all = 0;
  for (const Row& row : header.rows) {
    REQUIRE(flags.contains(header.cell(row, "name")));
    CHECK(flags.at(header.cell(row, "name")) == 1u << number(header.cell(row, "bit")));
    all |= 1u << number(header.cell(row, "bit"));
  }
  CHECK(all == kHeaderFlagsKnown);
}

TEST_CASE("enumerations of FORMAT.md are the code's") {
  check_names<StreamKind>(spec::table_under(format_text(), "Streams"), 4);
  check_names<Codec>(spec::table_under(format_text(), "Codecs"), 4);
  check_names<Compressor>(spec::table_under(format_text(), "Byte compressors"), 3);
  const Table others = spec::table_under(format_text(), "Other enumerations");
  CHECK(others.rows.size() == 11);
  for (const Row& row : others.rows) {
    const std::string& field = others.cell(row, "field");
    const std::uint64_t id = number(others.cell(row, "id"));
    INFO(field << " " << id);
    const std::string_view name = field == "stream.rope_state"     ? name_of(static_cast<RopeState>(id))
                                  : field == "stream.rope_pairing" ? name_of(static_cast<RopePairing>(id))
                                  : field == "segment.chunk_order" ? name_of(static_cast<ChunkOrder>(id))
                                  : field == "header.restorable"   ? name_of(static_cast<Restorable>(id))
                                                                   : "no such field";
    CHECK(others.cell(row, "name") == name);
  }
}

TEST_CASE("element types of FORMAT.md are the code's") {
  const Table table = spec::table_under(format_text(), "Element types");
  std::set<std::uint64_t> ids;
  for (const Row& row : table.rows) {
    const std::uint64_t id = number(table.cell(row, "id"));
    INFO("element type " << id);
    ids.insert(id);
    const DTypeInfo* info = dtype_info(static_cast<DType>(id));
    REQUIRE(info != nullptr);
    CHECK(table.cell(row, "name") == info->name);
    CHECK(number(table.cell(row, "block elements")) == info->block_elements);
    CHECK(number(table.cell(row, "block bytes")) == info->block_bytes);
    CHECK(number(table.cell(row, "width")) == info->width_half_bits);
    if (id != 255) CHECK(info->width_half_bits == 16 * info->block_bytes / info->block_elements);
  }
  for (std::uint32_t id = 0; id < 256; ++id) {
    CHECK((dtype_info(static_cast<DType>(id)) != nullptr) == ids.contains(id));
  }
}

TEST_CASE("error codes of FORMAT.md are the code's") {
  const Table table = spec::table_under(format_text(), "Error codes");
  std::size_t count = 0;
  const ErrorInfo* infos = error_table(&count);
  CHECK(table.rows.size() == count);
  for (std::size_t i = 0; i < std::min(count, table.rows.size()); ++i) {
    const Row expected{std::to_string(static_cast<int>(infos[i].code)), std::string(infos[i].name),
                       std::to_string(infos[i].exit_code), std::string(infos[i].meaning)};
    CHECK(table.rows[i] == expected);
  }
}

TEST_CASE("every code that a check gives is an error code") {
  std::set<std::string> names;
  std::size_t count = 0;
  const ErrorInfo* infos = error_table(&count);
  for (std::size_t i = 0; i < count; ++i) names.insert(std::string(infos[i].name));
  for (const char* heading :
       {"Prologue checks", "Header checks", "Frame checks", "Content checks", "End checks"}) {
    const Table table = spec::table_under(format_text(), heading);
    for (const Row& row : table.rows) {
      const std::string& code = table.cell(row, "code");
      if (code.empty() || code == "see below") continue;
      std::istringstream several(code);
      for (std::string one; std::getline(several, one, ';');) {
        one.erase(0, one.find_first_not_of(' '));
        INFO(heading << ": " << one);
        CHECK(names.contains(one));
      }
    }
  }
}

TEST_CASE("limits of FORMAT.md are the code's") {
  const Limits limits;
  const std::map<std::string, std::uint64_t> known{
      {"header_bytes", limits.header_bytes}, {"section_bytes", limits.section_bytes},
      {"map_bytes", limits.map_bytes},       {"summary_bytes", limits.summary_bytes},
      {"frame_count", limits.frame_count},   {"token_count", limits.token_count},
      {"stream_count", limits.stream_count}, {"segment_count", limits.segment_count}};
  static_assert(sizeof(Limits) == 8 * sizeof(std::uint64_t), "a new limit belongs in FORMAT.md and here");
  const Table table = spec::table_under(format_text(), "Limits");
  CHECK(table.rows.size() == known.size());
  for (const Row& row : table.rows) {
    INFO(table.cell(row, "name"));
    REQUIRE(known.contains(table.cell(row, "name")));
    CHECK(number(table.cell(row, "value")) == known.at(table.cell(row, "name")));
  }
}

TEST_CASE("identity fields of FORMAT.md are the code's") {
  const Table table = spec::table_under(format_text(), "Identity fields");
  const auto fields = identity_fields();
  CHECK(table.rows.size() == fields.size());
  constexpr std::array<const char*, 5> kTypes{"?", "text", "u64", "f64", "digest"};
  for (std::size_t i = 0; i < std::min(fields.size(), table.rows.size()); ++i) {
    const Row expected{std::to_string(static_cast<int>(fields[i].field)), std::string(fields[i].name),
                       kTypes[static_cast<std::size_t>(fields[i].type)]};
    CHECK(first_columns(table, 3)[i] == expected);
  }
}

TEST_CASE("every place in spec/ that code or a manifest names is there") {
  namespace fs = std::filesystem;
  const fs::path root = CACHECARD_SOURCE_DIR;
  std::map<std::string, std::set<std::string>> known;
  for (const char* name : {"FORMAT.md", "CODECS.md", "COMPATIBILITY.md", "VECTORS.md", "ERRATA.md", "HDF5.md"}) {
    const auto found = spec::anchors(spec::read_spec(name));
    known[name] = {found.begin(), found.end()};
    INFO(name << " has two headings with one anchor");
    CHECK(known[name].size() == found.size());
  }
  const std::regex place("(FORMAT|CODECS|COMPATIBILITY|VECTORS|ERRATA|HDF5)\\.md#([A-Za-z0-9_-]+)");
  const std::regex local("\\]\\(#([A-Za-z0-9_-]+)\\)");
  for (const char* folder : {"libcachecard", "converters", "tools", "fixtures", "tests", "spec"}) {
    for (const auto& entry : fs::recursive_directory_iterator(root / folder)) {
      const std::string extension = entry.path().extension();
      const bool read = extension == ".cpp" || extension == ".hpp" || extension == ".h" ||
                        extension == ".c" || extension == ".md" || extension == ".py" ||
                        entry.path().filename() == "MANIFEST.csv";
      if (!entry.is_regular_file() || !read) continue;
      std::ifstream file(entry.path());
      const std::string text{std::istreambuf_iterator<char>(file), {}};
      for (std::sregex_iterator at(text.begin(), text.end(), place), end; at != end; ++at) {
        INFO(entry.path().string() << ": " << (*at)[0].str());
        CHECK(known[(*at)[1].str() + ".md"].contains((*at)[2].str()));
      }
      if (std::string(folder) != "spec" || !known.contains(entry.path().filename())) continue;
      for (std::sregex_iterator at(text.begin(), text.end(), local), end; at != end; ++at) {
        INFO(entry.path().string() << ": " << (*at)[0].str());
        CHECK(known[entry.path().filename()].contains((*at)[1].str()));
      }
    }
  }
}

}  // namespace cachecard
