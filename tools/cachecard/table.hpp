#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace cachecard::cli {

/// 98,697,216
std::string grouped(std::uint64_t number);
/// 94.1 MiB; below 1024 as it is: 512 B
std::string human_bytes(std::uint64_t size);
/// 94.1 MiB (98,697,216 bytes); below 1024: 512 bytes
std::string exact_bytes(std::uint64_t size);
/// 12.5 %
std::string percent(double part, double whole);
/// 0-3, 7, 9-10. Needs: numbers ascend.
std::string ranges(const std::vector<std::uint32_t>& numbers);
/// A token span as people read it: 0-4 (of one token: 3; of none: none).
std::string span_text(std::uint64_t first, std::uint64_t count);

/// Aligned columns. Cells are UTF-8; control characters are made printable.
class Table {
 public:
  enum class Align : bool { kLeft, kRight };
  struct Column {
    std::string title;
    Align align = Align::kLeft;
  };

  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}
  void add(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
  bool empty() const { return rows_.empty(); }
  /// Title line and rows, each behind two spaces; no title line where all titles are empty.
  std::string text() const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

/// "name  value" lines, aligned, without indentation.
class Facts {
 public:
  void add(std::string_view name, std::string_view value) { lines_.emplace_back(name, value); }
  std::string text() const;

 private:
  std::vector<std::pair<std::string, std::string>> lines_;
};

}  // namespace cachecard::cli
