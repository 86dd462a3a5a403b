#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "cachecard/reader.hpp"
#include "table.hpp"

namespace cachecard::cli {

using Json = nlohmann::ordered_json;

/// One field as JSON: enums by name, digests as hex, "none" sentinels as null.
Json field_json(std::string_view record, std::string_view field, std::uint64_t number);
Json bytes_json(std::span<const std::uint8_t> bytes);

/// A record with the names of its layout, reserved fields left out. Widths in half bits become
/// bits, under "<name>_bits".
template <class Record>
Json record_json(const Record& record) {
  Json object = Json::object();
  for_each_field<Record>([&](const auto& f, std::size_t) {
    if (f.rule == Rule::kReservedZero || f.name == "record_size") return;
    const auto& member = record.*(f.member);
    using Member = std::remove_cvref_t<decltype(member)>;
    const std::string name(f.name);
    if constexpr (std::is_floating_point_v<Member> || std::is_signed_v<Member>) {
      object[name] = member;
    } else if constexpr (!std::is_integral_v<Member>) {
      object[name] = bytes_json(member);
    } else if (f.unit == Unit::kHalfBits) {
      object[name + "_bits"] = static_cast<double>(member) / 2;
    } else {
      object[name] = field_json(Layout<Record>::name, f.name, member);
    }
  });
  return object;
}

/// A value of record_json in a line of text: null is "-".
std::string cell(const Json& value);

/// Objects of one shape as a table; columns where every value is 0, null or none are left out,
/// but for those in keep.
std::string objects_table(const std::vector<Json>& objects, const std::vector<std::string_view>& keep = {});

std::vector<std::string> required_feature_names(std::uint64_t bits);
std::vector<std::string> optional_feature_names(std::uint64_t bits);
std::vector<std::string> header_flag_names(std::uint32_t flags);
/// "a, b", or "none".
std::string joined(const std::vector<std::string>& names);

/// 8 x file bytes / values, opaque state's bytes left out; nullopt without values.
std::optional<double> bits_per_value(std::uint64_t file_size, const Summary& summary);
std::string bits_text(std::optional<double> bits);
Json bits_json(std::optional<double> bits);

/// What each (section type, codec, compressor) costs, then what the summary does not count, so that
/// the sum is the file: by name where the trailer is at hand, else as one row.
std::string stages_text(const Summary& summary, std::uint64_t file_size, const Trailer* trailer = nullptr);
Json stages_json(const Summary& summary, std::uint64_t file_size, const Trailer* trailer = nullptr);

/// How many K and V values have which width.
std::string widths_text(const Summary& summary);
Json widths_json(const Summary& summary);

Json identity_json(const Identity& identity);
/// Name of an identity field; "field_<id>" for one of a later minor.
std::string identity_name(std::uint16_t field_id);

}  // namespace cachecard::cli
