#include <catch2/catch.hpp>
#include <cctype>
#include <fstream>
#include <map>
#include <set>

#include "cachecard/reader.hpp"

using namespace cachecard;

namespace {

const std::string kFolder = CACHECARD_FIXTURES_DIR;

/// Cells of one CSV line, quotes undone.
std::vector<std::string> split_row(const std::string& line) {
  std::vector<std::string> cells(1);
  bool quoted = false;
  for (std::size_t i = 0; i < line.size(); ++i) {
    if (line[i] == '"') {
      const bool doubled = quoted && i + 1 < line.size() && line[i + 1] == '"';
      if (doubled) cells.back() += line[++i];
      if (!doubled) quoted = !quoted;
    } else if (line[i] == ',' && !quoted) {
      cells.emplace_back();
    } else {
      cells.back() += line[i];
    }
  }
  return cells;
}

struct Row {
  std::string file;
  std::string group;
  std::string expect;
  std::string found_by;
  std::string offset;
  std::string spec;
};

std::vector<Row> read_manifest() {
  std::ifstream in(kFolder + "/MANIFEST.csv");
  std::vector<Row> rows;
  std::string line;
  std::getline(in, line);
  while (std::getline(in, line)) {
    const auto cells = split_row(line);
    REQUIRE(cells.size() == 9);
    rows.push_back({cells[0], cells[1], cells[2], cells[3], cells[4], cells[5]});
  }
  return rows;
}

std::string outcome_of_verify(const ByteSource& source, bool decode) {
  SourceStream stream(source);
  const auto report = verify(stream, {.decode = decode, .limits = {}, .parallel = {}});
  if (report) return "ok";
  return std::string(error_info(report.error().code).name) + " " + std::to_string(report.error().offset);
}

/// As Markdown renderers make it: lower case, hyphens for spaces.
std::string anchor_of(const std::string& heading) {
  std::string anchor;
  for (char c : heading.substr(heading.find_first_not_of("# "))) {
    if (c == ' ') {
      anchor += '-';
    } else if (std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' || c == '_') {
      anchor += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    }
  }
  return anchor;
}

/// Cards whose first defect for a seekable reader has another name than the first one in file order.
const std::map<std::string, std::string> kOpenSaysOtherwise{
    {"invalid/trailer_directory_offset_wrong.card", "checksum_mismatch"},  // what stands there is no frame
    {"invalid/trailer_frame_count_wrong.card", "bad_size"},                // of the directory, by that count
    {"invalid/trailer_frame_count_huge.card", "limit_exceeded"},
    {"invalid/bytes_after_trailer_1.card", "truncated"},  // the last 64 bytes are no trailer
    {"invalid/bytes_after_trailer_64.card", "truncated"},
    {"invalid/directory_size_over_limit.card", "bad_size"},   // the payload leaves the file
    {"invalid/frame_hole.card", "bad_size"},                  // the trailer's file_size
    {"invalid/directory_differs.card", "checksum_mismatch"},  // a frame's check
};

}  // namespace

TEST_CASE("the manifest has at least 30 valid and 60 invalid cards", "[conformance]") {
  std::size_t valid = 0;
  std::size_t invalid = 0;
  for (const Row& row : read_manifest()) ++(row.expect == "ok" ? valid : invalid);
  CHECK(valid >= 30);
  CHECK(invalid >= 60);
}

TEST_CASE("every chapter that the manifest names is in the spec", "[conformance]") {
  std::map<std::string, std::set<std::string>> chapters;
  for (const char* file : {"FORMAT.md", "CODECS.md"}) {
    std::ifstream in(std::string(CACHECARD_SOURCE_DIR) + "/spec/" + file);
    for (std::string line; std::getline(in, line);) {
      if (line.starts_with("#")) chapters[file].insert(anchor_of(line));
    }
  }
  for (const Row& row : read_manifest()) {
    INFO(row.file << " " << row.spec);
    const std::size_t hash = row.spec.find('#');
    const auto& known = chapters[row.spec.substr(0, hash)];
    CHECK((hash == std::string::npos ? !known.empty() : known.contains(row.spec.substr(hash + 1))));
  }
}

TEST_CASE("open and verify accept every valid card", "[conformance]") {
  for (const Row& row : read_manifest()) {
    if (row.expect != "ok") continue;
    INFO(row.file);
    const auto source = open_file(kFolder + "/" + row.file);
    REQUIRE(source);
    const auto card = CardReader::open(**source);
    CHECK((card ? "ok" : card.error().message()) == "ok");
    CHECK(outcome_of_verify(**source, true) == "ok");
    const auto facts = read_facts(**source);
    CHECK((facts ? "ok" : facts.error().message()) == "ok");
  }
}

TEST_CASE("every defect is found by whom the manifest says, and by no lesser check", "[conformance]") {
  for (const Row& row : read_manifest()) {
    if (row.expect == "ok") continue;
    INFO(row.file);
    const auto source = open_file(kFolder + "/" + row.file);
    REQUIRE(source);
    CHECK(outcome_of_verify(**source, true) == row.expect + " " + row.offset);
    CHECK((outcome_of_verify(**source, false) == "ok") == (row.found_by == "decode"));
    const auto card = CardReader::open(**source);
    CHECK(!card == (row.found_by == "open"));
    if (card || row.found_by != "open") continue;
    const auto other = kOpenSaysOtherwise.find(row.file);
    CHECK(error_info(card.error().code).name ==
          (other == kOpenSaysOtherwise.end() ? row.expect : other->second));
  }
}
