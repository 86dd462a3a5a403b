#include "key_reader.hpp"

#include <array>
#include <charconv>

#include "cachecard/types.hpp"

namespace cachecard::gguf {
namespace {

std::string type_name(std::uint32_t type) {
  // source: gguf.h enum gguf_type
  constexpr std::array<std::string_view, 13> kNames{"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                                    "bool", "string", "array", "u64", "i64", "f64"};
  return type < kNames.size() ? std::string(kNames[type]) : std::to_string(type);
}

}  // namespace

Result<llama_cpp::GgufRange> KeyReader::range_of(const std::string& key, std::uint32_t type) const {
  const auto range = file_.ranges.find(key);
  if (range == file_.ranges.end()) return gguf_error(key, "the key is missing");
  if (range->second.type == type) return range->second;
  return gguf_error(key, "found type " + type_name(range->second.type) + ", allowed " + type_name(type));
}

Result<llama_cpp::GgufArray> KeyReader::array_of(const std::string& key, std::uint32_t type,
                                                 std::uint64_t most) const {
  auto range = range_of(key, kArrayType);
  if (!range) return range.error();
  const auto& array = std::get<llama_cpp::GgufArray>(file_.keys.at(key));
  if (array.element_type != type) {
    return gguf_error(
        key, "found elements of type " + type_name(array.element_type) + ", allowed " + type_name(type));
  }
  if (array.count > most) {
    return Error{ErrorCode::kLimitExceeded, kNoOffset, key,
                 "found " + std::to_string(array.count) + " elements, allowed " + std::to_string(most)};
  }
  return array;
}

std::vector<std::pair<std::uint16_t, std::uint32_t>> KeyReader::numbered(std::string_view prefix) const {
  std::vector<std::pair<std::uint16_t, std::uint32_t>> found;
  for (auto at = file_.ranges.lower_bound(std::string(prefix)); at != file_.ranges.end(); ++at) {
    if (!at->first.starts_with(prefix)) break;
    std::uint16_t number = 0;
    const char* end = at->first.data() + at->first.size();
    const auto [next, error] = std::from_chars(at->first.data() + prefix.size(), end, number);
    if (error == std::errc() && next == end && number != 0) found.emplace_back(number, at->second.type);
  }
  return found;
}

Result<std::string> KeyReader::text(const std::string& key) const {
  if (auto range = range_of(key, kStringType); !range) return range.error();
  const auto& text = std::get<std::string>(file_.keys.at(key));
  if (text.size() <= Limits{}.section_bytes) return text;
  return Error{
      ErrorCode::kLimitExceeded, kNoOffset, key,
      "found " + std::to_string(text.size()) + " bytes, allowed " + std::to_string(Limits{}.section_bytes)};
}

}  // namespace cachecard::gguf
