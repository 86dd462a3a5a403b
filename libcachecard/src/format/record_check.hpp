#pragma once

#include <string>

#include "cachecard/error.hpp"
#include "cachecard/layout.hpp"

namespace cachecard {

/// An error that names one field of a record at its place: `record` starts at `base`.
template <class Record, class Member>
Error field_error(ErrorCode code, std::uint64_t base, Member Record::* member, std::string detail) {
  Error error{code, base, std::string(Layout<Record>::name), std::move(detail)};
  for_each_field<Record>([&](const auto& f, std::size_t offset) {
    if constexpr (std::is_same_v<decltype(f.member), Member Record::*>) {
      if (f.member == member) {
        error.offset = base == kNoOffset ? kNoOffset : base + offset;
        error.field += "." + std::string(f.name);
      }
    }
  });
  return error;
}

/// Holds the reserved fields of a record to zero.
template <class Record>
Status check_reserved(const Record& record, std::uint64_t base) {
  Status status;
  for_each_field<Record>([&](const auto& f, std::size_t) {
    if (status && f.rule == Rule::kReservedZero && !all_zero(record.*(f.member))) {
      status = field_error(ErrorCode::kReservedNotZero, base, f.member, "found a bit set, allowed zero");
    }
  });
  return status;
}

inline std::string found_allowed(std::uint64_t found, const std::string& allowed) {
  return "found " + std::to_string(found) + ", allowed " + allowed;
}

}  // namespace cachecard
