#include "line_json.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>

#include "span_file.hpp"

namespace cachecard::cli {
namespace {

constexpr std::size_t kMostDepth = 16;

/// How far the parser has read. It reads one character beyond a number.
struct Progress {
  std::size_t line = 1;
  bool at_newline = false;
};

class CountingIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  CountingIterator(const char* at, Progress* progress) : at_(at), progress_(progress) {}
  reference operator*() const { return *at_; }
  CountingIterator& operator++() {
    progress_->at_newline = *at_ == '\n';
    if (progress_->at_newline) ++progress_->line;
    ++at_;
    return *this;
  }
  CountingIterator operator++(int) {
    CountingIterator before = *this;
    ++*this;
    return before;
  }
  bool operator==(const CountingIterator& other) const { return at_ == other.at_; }
  bool operator!=(const CountingIterator& other) const { return at_ != other.at_; }

 private:
  const char* at_;
  Progress* progress_;
};

/// Takes nlohmann's events and builds the tree. A member of sax_parse, so that its names are nlohmann's.
class Builder {
 public:
  Builder(const Progress& progress, std::string_view text) : progress_(progress), text_(text) {}

  bool null() { return put(LineJson::Kind::kNull, line()); }
  bool boolean(bool value) {
    return put(LineJson::Kind::kBool, line(), [&](LineJson& to) { to.flag = value; });
  }
  bool number_integer(std::int64_t value) { return put_number(static_cast<double>(value)); }
  bool number_unsigned(std::uint64_t value) { return put_number(static_cast<double>(value)); }
  bool number_float(double value, const std::string&) { return put_number(value); }
  bool string(std::string& value) {
    return put(LineJson::Kind::kText, line(), [&](LineJson& to) { to.text = std::move(value); });
  }
  bool binary(nlohmann::json::binary_t&) { return false; }
  bool start_object(std::size_t) { return open(LineJson::Kind::kObject); }
  bool start_array(std::size_t) { return open(LineJson::Kind::kArray); }
  bool end_object() { return close(); }
  bool end_array() { return close(); }
  bool key(std::string& name) {
    LineJson& object = *open_.back();
    if (object.find(name) != nullptr) return fail(line(), fmt::format("'{}' is there twice", name));
    object.members.emplace_back(std::move(name), LineJson{});
    return true;
  }
  bool parse_error(std::size_t position, const std::string& last, const nlohmann::json::exception&) {
    const std::string_view read = text_.substr(0, std::min(position, text_.size()));
    const std::size_t end =
        read.empty() ? 0 : read.size() - 1;  // the last character may end the line that is wrong
    const std::size_t at = 1 + static_cast<std::size_t>(std::count(
                                   read.begin(), read.begin() + static_cast<std::ptrdiff_t>(end), '\n'));
    if (position > text_.size()) return fail(at, "it ends in the middle: not JSON");
    return fail(at, fmt::format("not JSON at '{}'", last.substr(0, 40)));
  }

  LineJson take() { return std::move(root_); }
  const std::string& failure() const { return failure_; }

 private:
  std::size_t line() const { return progress_.line; }
  bool put_number(double value) {
    const std::size_t at = progress_.line - (progress_.at_newline ? 1 : 0);
    return put(LineJson::Kind::kNumber, at, [&](LineJson& to) { to.number = value; });
  }
  /// Where the next value goes.
  LineJson& place() {
    if (open_.empty()) return root_;
    LineJson& parent = *open_.back();
    if (parent.kind == LineJson::Kind::kObject) return parent.members.back().second;
    return parent.items.emplace_back();
  }
  template <class Set>
  bool put(LineJson::Kind kind, std::size_t line, Set&& set) {
    LineJson& to = place();
    to.kind = kind;
    to.line = line;
    set(to);
    return true;
  }
  bool put(LineJson::Kind kind, std::size_t line) {
    return put(kind, line, [](LineJson&) {});
  }
  bool open(LineJson::Kind kind) {
    if (open_.size() >= kMostDepth)
      return fail(line(), fmt::format("more than {} values in each other", kMostDepth));
    LineJson& to = place();
    to.kind = kind;
    to.line = line();
    open_.push_back(&to);  // stays where it is: nothing is added to what is around it before it is closed
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }
  bool fail(std::size_t line, const std::string& cause) {
    failure_ = fmt::format("line {}: {}", line, cause);
    return false;
  }

  const Progress& progress_;
  std::string_view text_;
  LineJson root_;
  std::vector<LineJson*> open_;
  std::string failure_;
};

}  // namespace

const LineJson* LineJson::find(std::string_view name) const {
  for (const auto& [key, value] : members) {
    if (key == name) return &value;
  }
  return nullptr;
}

std::string_view LineJson::noun() const {
  switch (kind) {
    case Kind::kNull:
      return "null";
    case Kind::kBool:
      return "true or false";
    case Kind::kNumber:
      return "a number";
    case Kind::kText:
      return "text";
    case Kind::kArray:
      return "a list";
    default:
      return "an object";
  }
}

Result<LineJson> parse_line_json(std::string_view text) {
  Progress progress;
  Builder builder(progress, text);
  const CountingIterator begin(text.data(), &progress);
  const CountingIterator end(text.data() + text.size(), &progress);
  if (!nlohmann::json::sax_parse(begin, end, &builder)) return usage_error(builder.failure());
  return builder.take();
}

}  // namespace cachecard::cli
