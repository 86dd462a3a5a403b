#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <tuple>
#include <type_traits>

namespace cachecard {

static_assert(std::endian::native == std::endian::little,
              "big-endian hosts are out of version 1 (spec: FORMAT.md#scope)");

/// How a reader treats a field. spec: FORMAT.md#rules
enum class Rule : std::uint8_t {
  kValue,         ///< a number, checked as its row says
  kConstant,      ///< always the same; anything else is an error
  kReservedZero,  ///< written zero, anything else is reserved_not_zero
};

enum class Unit : std::uint8_t { kNone, kBytes, kTokens, kElements, kHalfBits };

template <class Record, class Member>
struct Field {
  std::string_view name;
  Member Record::* member;
  Rule rule;
  Unit unit;
  std::uint16_t since_minor;
};

/// One row of a record's table.
template <class Record, class Member>
constexpr Field<Record, Member> field(std::string_view name, Member Record::* member,
                                      Rule rule = Rule::kValue, Unit unit = Unit::kNone,
                                      std::uint16_t since_minor = 1) {
  return {name, member, rule, unit, since_minor};
}

template <class Record, class Member>
constexpr Field<Record, Member> reserved(std::string_view name, Member Record::* member,
                                         std::uint16_t since_minor = 1) {
  return {name, member, Rule::kReservedZero, Unit::kNone, since_minor};
}

/// Specialised in records.hpp: `name` and `fields` of each record, the one definition of the layout.
template <class Record>
struct Layout;

/// Visits every field with its byte offset: visit(field, offset).
template <class Record, class Visit>
constexpr void for_each_field(Visit&& visit) {
  std::size_t offset = 0;
  std::apply(
      [&](const auto&... fields) {
        auto one = [&](const auto& f) {
          using Member = std::remove_cvref_t<decltype(std::declval<Record&>().*(f.member))>;
          visit(f, offset);
          offset += sizeof(Member);
        };
        (one(fields), ...);
      },
      Layout<Record>::fields);
}

/// Bytes of a record in a card: the sum of its fields, without padding.
template <class Record>
constexpr std::size_t encoded_size() {
  std::size_t size = 0;
  for_each_field<Record>([&](const auto& f, std::size_t offset) {
    using Member = std::remove_cvref_t<decltype(std::declval<Record&>().*(f.member))>;
    size = offset + sizeof(Member);
  });
  return size;
}

/// Needs: in.size() >= encoded_size<Record>().
template <class Record>
Record load(std::span<const std::byte> in) {
  Record record{};
  for_each_field<Record>([&](const auto& f, std::size_t offset) {
    std::memcpy(&(record.*(f.member)), in.data() + offset, sizeof(record.*(f.member)));
  });
  return record;
}

/// Needs: out.size() >= encoded_size<Record>().
template <class Record>
void store(const Record& record, std::span<std::byte> out) {
  for_each_field<Record>([&](const auto& f, std::size_t offset) {
    std::memcpy(out.data() + offset, &(record.*(f.member)), sizeof(record.*(f.member)));
  });
}

/// Whether every byte of a member is zero; what kReservedZero asks for.
template <class Member>
bool all_zero(const Member& member) {
  const auto bytes = std::as_bytes(std::span(&member, 1));
  for (std::byte b : bytes) {
    if (b != std::byte{0}) return false;
  }
  return true;
}

}  // namespace cachecard
