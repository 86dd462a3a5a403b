#include "table.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "context.hpp"

namespace cachecard::cli {
namespace {

/// Columns of a terminal that text takes, wide scripts aside.
std::size_t display_width(std::string_view text) {
  return static_cast<std::size_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

std::string padded(std::string_view text, std::size_t width, Table::Align align) {
  const std::size_t have = display_width(text);
  const std::string fill(width > have ? width - have : 0, ' ');
  return align == Table::Align::kRight ? fill + std::string(text) : std::string(text) + fill;
}

void end_line(std::string& out) {
  out.erase(out.find_last_not_of(' ') + 1);
  out += '\n';
}

}  // namespace

std::string grouped(std::uint64_t number) {
  std::string digits = std::to_string(number);
  for (std::size_t i = digits.size(); i > 3; i -= 3) digits.insert(i - 3, 1, ',');
  return digits;
}

std::string human_bytes(std::uint64_t size) {
  constexpr std::array units{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  if (size < 1024) return fmt::format("{} B", size);
  double scaled = double(size) / 1024;
  std::size_t unit = 0;
  while (scaled >= 1023.95 && unit + 1 < units.size()) {
    scaled /= 1024;
    ++unit;
  }
  return fmt::format("{:.1f} {}", scaled, units[unit]);
}

std::string exact_bytes(std::uint64_t size) {
  if (size < 1024) return fmt::format("{} byte{}", size, size == 1 ? "" : "s");
  return fmt::format("{} ({} bytes)", human_bytes(size), grouped(size));
}

std::string percent(double part, double whole) {
  return whole == 0 ? "-" : fmt::format("{:.1f} %", 100 * part / whole);
}

std::string ranges(const std::vector<std::uint32_t>& numbers) {
  std::string out;
  for (std::size_t i = 0; i < numbers.size();) {
    std::size_t end = i + 1;
    while (end < numbers.size() && numbers[end] == numbers[end - 1] + 1) ++end;
    out += out.empty() ? "" : ", ";
    out += span_text(numbers[i], end - i);
    i = end;
  }
  return out;
}

std::string span_text(std::uint64_t first, std::uint64_t count) {
  if (count == 0) return "none";
  return count == 1 ? std::to_string(first) : fmt::format("{}-{}", first, first + count - 1);
}

std::string Table::text() const {
  std::vector<std::vector<std::string>> lines;
  const auto titled = [](const Column& column) { return !column.title.empty(); };
  if (std::any_of(columns_.begin(), columns_.end(), titled)) {
    std::vector<std::string> titles;
    for (const Column& column : columns_) titles.push_back(column.title);
    lines.push_back(std::move(titles));
  }
  for (const auto& row : rows_) {
    std::vector<std::string> cells;
    for (const std::string& cell : row) cells.push_back(printable(cell));
    lines.push_back(std::move(cells));
  }
  std::vector<std::size_t> widths(columns_.size(), 0);
  for (const auto& line : lines) {
    for (std::size_t c = 0; c < line.size(); ++c) {
      widths[c] = std::max(widths[c], display_width(line[c]));
    }
  }
  std::string out;
  for (const auto& line : lines) {
    for (std::size_t c = 0; c < line.size(); ++c) {
      out += "  " + padded(line[c], widths[c], columns_[c].align);
    }
    end_line(out);
  }
  return out;
}

std::string Facts::text() const {
  std::size_t width = 0;
  for (const auto& [name, value] : lines_) width = std::max(width, display_width(name));
  std::string out;
  for (const auto& [name, value] : lines_) {
    out += padded(name, width, Table::Align::kLeft) + "  " + printable(value);
    end_line(out);
  }
  return out;
}

}  // namespace cachecard::cli
