#include "spec_file.hpp"

#include <catch2/catch.hpp>
#include <cctype>
#include <fstream>
#include <set>
#include <sstream>

namespace cachecard::spec {
namespace {

std::string trim(const std::string& text) {
  const auto first = text.find_first_not_of(" \t\r");
  if (first == std::string::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\r") - first + 1);
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

/// "| a | b |" -> {"a", "b"}; empty for a line that is no table row.
Row cells_of(const std::string& line) {
  const std::string text = trim(line);
  if (text.size() < 2 || text.front() != '|' || text.back() != '|') return {};
  Row cells;
  std::istringstream in(text.substr(1));
  for (std::string cell; std::getline(in, cell, '|');) cells.push_back(trim(cell));
  return cells;
}

/// Text of a heading line; empty for other lines.
std::string heading_of(const std::string& line) {
  const auto level = line.find_first_not_of('#');
  if (level == 0 || level == std::string::npos || level > 6 || line[level] != ' ') return {};
  return trim(line.substr(level));
}

bool is_fence(const std::string& line) { return line.rfind("```", 0) == 0; }

/// Reads the table whose first line is lines[at]; at ends behind it.
Table read_table(const std::vector<std::string>& lines, std::size_t& at) {
  Table table;
  table.columns = cells_of(lines[at]);
  for (at += 2; at < lines.size(); ++at) {
    Row row = cells_of(lines[at]);
    if (row.empty()) break;
    INFO(lines[at]);
    CHECK(row.size() == table.columns.size());
    row.resize(table.columns.size());
    table.rows.push_back(std::move(row));
  }
  return table;
}

/// Calls visit(heading, table) for every table outside of fenced blocks.
template <class Visit>
void for_each_table(const std::string& markdown, Visit&& visit) {
  const auto lines = lines_of(markdown);
  std::string heading;
  bool fenced = false;
  for (std::size_t at = 0; at < lines.size();) {
    if (is_fence(lines[at])) fenced = !fenced;
    if (fenced || cells_of(lines[at]).empty()) {
      if (const auto text = heading_of(lines[at]); !fenced && !text.empty()) heading = text;
      ++at;
      continue;
    }
    visit(heading, read_table(lines, at));
  }
}

std::string without_note(const std::string& line) { return trim(line.substr(0, line.find('#'))); }

}  // namespace

const std::string& Table::cell(const Row& row, const std::string& column) const {
  for (std::size_t i = 0; i < columns.size(); ++i) {
    if (columns[i] == column) return row[i];
  }
  FAIL("no column " << column);
  return row.front();
}

std::string spec_path(const std::string& name) { return std::string(CACHECARD_SOURCE_DIR) + "/spec/" + name; }

std::string read_spec(const std::string& name) {
  std::ifstream file(spec_path(name));
  INFO(name);
  REQUIRE(file.good());
  return {std::istreambuf_iterator<char>(file), {}};
}

Table table_under(const std::string& markdown, const std::string& heading) {
  Table found;
  for_each_table(markdown, [&](const std::string& at, const Table& table) {
    if (at == heading && found.columns.empty()) found = table;
  });
  INFO("table under " << heading);
  REQUIRE(!found.rows.empty());
  return found;
}

std::map<std::string, Table> tables_with(const std::string& markdown, const Row& columns) {
  std::map<std::string, Table> found;
  for_each_table(markdown, [&](const std::string& heading, const Table& table) {
    if (table.columns != columns) return;
    INFO("two tables under " << heading);
    CHECK(found.emplace(heading, table).second);
  });
  return found;
}

std::vector<std::string> anchors(const std::string& markdown) {
  std::vector<std::string> found;
  bool fenced = false;
  for (const auto& line : lines_of(markdown)) {
    if (is_fence(line)) fenced = !fenced;
    const std::string text = fenced ? std::string() : heading_of(line);
    if (text.empty()) continue;
    std::string anchor;
    for (const char c : text) {
      if (std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '-') {
        anchor += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
      } else if (c == ' ') {
        anchor += '-';
      }
    }
    found.push_back(anchor);
  }
  return found;
}

std::vector<std::string> block(const std::string& markdown, const std::string& kind,
                               const std::string& name) {
  const std::string opening = "```" + kind + " name=" + name;
  std::vector<std::string> found;
  bool inside = false;
  for (const auto& line : lines_of(markdown)) {
    if (inside && is_fence(line)) return found;
    if (inside) found.push_back(line);
    if (trim(line) == opening) inside = true;
  }
  FAIL("no block " << opening);
  return found;
}

std::vector<Row> words_of(const std::vector<std::string>& lines) {
  std::vector<Row> rows;
  for (const auto& line : lines) {
    std::istringstream in(without_note(line));
    Row words;
    for (std::string word; in >> word;) words.push_back(word);
    if (!words.empty()) rows.push_back(std::move(words));
  }
  return rows;
}

std::vector<std::byte> hex_block(const std::string& markdown, const std::string& name) {
  std::vector<std::byte> bytes;
  for (const Row& words : words_of(block(markdown, "hex", name))) {
    INFO(name << ", line " << words[0]);
    REQUIRE(words[0].back() == ':');
    REQUIRE(std::stoul(words[0], nullptr, 16) == bytes.size());
    if (words[1] == "zero") {
      bytes.resize(bytes.size() + std::stoul(words[2]));
    } else if (words[1] == "copy") {
      const std::size_t from = std::stoul(words[2], nullptr, 16);
      const std::size_t count = std::stoul(words[3]);
      REQUIRE(from + count <= bytes.size());
      for (std::size_t i = 0; i < count; ++i) bytes.push_back(bytes[from + i]);
    } else {
      for (std::size_t i = 1; i < words.size(); ++i) {
        REQUIRE(words[i].size() == 2);
        bytes.push_back(static_cast<std::byte>(std::stoul(words[i], nullptr, 16)));
      }
    }
  }
  return bytes;
}

}  // namespace cachecard::spec
