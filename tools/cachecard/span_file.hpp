#pragma once

#include <fmt/format.h>

#include <charconv>
#include <fstream>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cachecard/error.hpp"

/// Small text files of numbers by token or by layer.
namespace cachecard::cli {

inline Error usage_error(std::string detail) { return {ErrorCode::kInvalidArgument, kNoOffset, {}, std::move(detail)}; }

template <class Number>
std::optional<Number> number(std::string_view text) {
  Number value = 0;
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || failed != std::errc{} || end != text.data() + text.size()) return {};
  return value;
}

inline std::string_view trimmed(std::string_view text) {
  const auto blank = [](char c) { return c == ' ' || c == '\t' || c == '\r'; };
  while (!text.empty() && blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && blank(text.back())) text.remove_suffix(1);
  return text;
}

inline std::vector<std::string_view> split(std::string_view text, char at) {
  std::vector<std::string_view> parts;
  for (std::size_t end = text.find(at); end != std::string_view::npos; end = text.find(at)) {
    parts.push_back(trimmed(text.substr(0, end)));
    text.remove_prefix(end + 1);
  }
  parts.push_back(trimmed(text));
  return parts;
}

/// Bits of keys and values, or what else a file says of both.
template <class Value>
struct Pair {
  Value key{};
  Value value{};
};

/// A file of lines A:B,K,V. flag: as the command has it; items: what A:B counts; allowed: what K and V may be.
template <class Value>
struct SpanFile {
  std::string_view flag;
  std::string_view items;
  std::string_view allowed;
  const std::string& path;
  std::uint64_t count;
  std::optional<Value> (*parse)(std::string_view);
};

/// One line: A:B,K,V for the tokens (or layers) A to B - 1. Extends found, which ends where A must begin.
template <class Value>
Status add_line(std::string_view line, std::size_t number_of_line, const SpanFile<Value>& file,
                std::vector<Pair<Value>>& found) {
  const auto wrong = [&](std::string detail) {
    return usage_error(fmt::format("{} {}, line {}: {}", file.flag, file.path, number_of_line, detail));
  };
  const auto parts = split(line, ',');
  const auto span = parts.size() == 3 ? split(parts[0], ':') : std::vector<std::string_view>{};
  const auto first = span.size() == 2 ? number<std::uint64_t>(span[0]) : std::nullopt;
  const auto end = span.size() == 2 ? number<std::uint64_t>(span[1]) : std::nullopt;
  if (!first || !end || *end <= *first) {
    return wrong(fmt::format("found '{}', allowed is A:B,K,V with A < B ({} A to B - 1, of keys and of values)", line, file.items));
  }
  const auto key = file.parse(parts[1]);
  const auto value = file.parse(parts[2]);
  if (!key || !value) return wrong(fmt::format("found '{}', allowed are {}", line, file.allowed));
  if (*first != found.size()) {
    return wrong(fmt::format("found {} from {}, allowed from {}: no hole, no overlap", file.items, *first, found.size()));
  }
  if (*end > file.count) return wrong(fmt::format("found {} up to {}, the cache has {}", file.items, *end, file.count));
  found.resize(*end, Pair<Value>{*key, *value});
  return {};
}

template <class Value>
Result<std::vector<Pair<Value>>> read_spans(const SpanFile<Value>& file) {
  std::ifstream in(file.path);
  if (!in) return Error{ErrorCode::kIo, kNoOffset, {}, fmt::format("{} {}: cannot be read", file.flag, file.path)};
  std::vector<Pair<Value>> found;
  std::string line;
  for (std::size_t i = 1; std::getline(in, line); ++i) {
    const std::string_view text = trimmed(std::string_view(line).substr(0, line.find('#')));
    if (text.empty()) continue;
    if (Status s = add_line(text, i, file, found); !s) return s.error();
  }
  if (found.size() != file.count) {
    return usage_error(fmt::format("{} {}: found {} {}, the cache has {}", file.flag, file.path, found.size(),
                                   file.items, file.count));
  }
  return found;
}

}  // namespace cachecard::cli
