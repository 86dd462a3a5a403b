#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

/// Reads the Markdown of spec/ as data: tables under headings, fenced blocks by name.
namespace cachecard::spec {

using Row = std::vector<std::string>;

/// First table under a heading. Rows have as many cells as columns; cells are trimmed.
struct Table {
  Row columns;
  std::vector<Row> rows;

  /// Cell of a row by column name; fails the test where there is no such column.
  const std::string& cell(const Row& row, const std::string& column) const;
};

/// Where spec/<name> stands.
std::string spec_path(const std::string& name);
/// Text of spec/<name>. Fails the test where the file is not there.
std::string read_spec(const std::string& name);

/// Table under the heading with this text ("### header" -> "header").
Table table_under(const std::string& markdown, const std::string& heading);

/// Every table that has exactly these columns, by the heading above it.
std::map<std::string, Table> tables_with(const std::string& markdown, const Row& columns);

/// GitHub's anchors of all headings.
std::vector<std::string> anchors(const std::string& markdown);

/// Lines of the fenced block "```kind name=name".
std::vector<std::string> block(const std::string& markdown, const std::string& kind, const std::string& name);

/// Bytes of a hex block: "offset: bytes", "offset: zero n", "offset: copy offset n", "# note".
std::vector<std::byte> hex_block(const std::string& markdown, const std::string& name);

/// Words of a block, notes after # left out.
std::vector<Row> words_of(const std::vector<std::string>& lines);

}  // namespace cachecard::spec
