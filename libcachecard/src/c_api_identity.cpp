#include "c_api_identity.hpp"

#include <string>
#include <vector>

#include "cachecard/digest.hpp"
#include "cachecard/match.hpp"

namespace cachecard::c_api {

Result<Identity::Value> take_identity_value(const ccd_identity_value& given) {
  if (given.bytes == nullptr && given.size > 0) return argument_error("an identity value's bytes are NULL");
  if (given.field_id > 0xFFFF) return argument_error("no identity field " + std::to_string(given.field_id));
  const auto type = static_cast<ValueType>(given.value_type);
  const std::size_t expected = type == ValueType::kDigest ? sizeof(Digest128) : sizeof(std::uint64_t);
  if (given.value_type < CCD_VALUE_TEXT || given.value_type > CCD_VALUE_DIGEST ||
      (type != ValueType::kText && given.size != expected)) {
    return argument_error("identity field " + std::to_string(given.field_id) + " has no value of type " +
                          std::to_string(given.value_type) + " and size " + std::to_string(given.size));
  }
  const auto id = static_cast<std::uint16_t>(given.field_id);
  const IdentityFieldInfo* info = identity_field_info(id);
  if (info != nullptr && info->type != type) {
    return argument_error(std::string(info->name) + " is of type " +
                          std::to_string(static_cast<unsigned>(info->type)));
  }
  std::string bytes;
  if (given.size > 0) bytes.assign(static_cast<const char*>(given.bytes), given.size);
  return Identity::Value{id, type, std::move(bytes)};
}

namespace {

/// Errors: invalid_argument, identity_unknown
Result<const Identity::Value*> find_value(const ccd_card* card, std::uint32_t field_id) {
  if (card == nullptr) return argument_error("card is NULL");
  if (field_id <= 0xFFFF) {
    const Identity& identity = card->reader.header().identity;
    if (const auto* value = identity.find(static_cast<IdentityField>(field_id))) return value;
  }
  return Error{ErrorCode::kIdentityUnknown, kNoOffset, std::string("identity.") + ccd_identity_name(field_id),
               "the card does not say"};
}

Result<std::vector<std::string>> take_allow(const char* const* allow, std::size_t count) {
  if (allow == nullptr && count > 0) return argument_error("allow is NULL");
  std::vector<std::string> names;
  for (std::size_t i = 0; i < count; ++i) {
    if (allow[i] == nullptr) return argument_error("a name in allow is NULL");
    names.emplace_back(allow[i]);
  }
  return names;
}

const char* static_override_name(std::string_view name) {
  for (const OverrideInfo& info : overrides()) {
    if (info.name == name) return info.name.data();
  }
  return nullptr;
}

ccd_field_verdict verdict_of(const FieldVerdict& from) {
  ccd_field_verdict verdict{};
  verdict.field_id = static_cast<std::uint32_t>(identity_field_by_name(from.field)->field);
  verdict.verdict = static_cast<std::uint32_t>(from.verdict);
  verdict.overridden = from.overridden ? 1 : 0;
  verdict.override_name = static_override_name(from.override_name);
  return verdict;
}

struct VerdictArray {
  ccd_field_verdict* out;
  std::size_t capacity;
  std::size_t* count;
};

Status match(const ccd_card* card, const Identity& target, const std::vector<std::string>& allow,
             const VerdictArray& array) {
  auto report = match_identity(card->reader.header().identity, target, allow);
  if (!report) return report.error();
  std::vector<ccd_field_verdict> verdicts;
  for (const FieldVerdict& field : report->fields) verdicts.push_back(verdict_of(field));
  if (Status s =
          give_array(std::span<const ccd_field_verdict>(verdicts), array.out, array.capacity, array.count);
      !s) {
    return s;
  }
  if (!report->accepted) return report->error;
  return {};
}

}  // namespace
}  // namespace cachecard::c_api

using namespace cachecard;
using namespace cachecard::c_api;

const char* ccd_identity_name(uint32_t field_id) noexcept {
  const auto* info = field_id > 0xFFFF ? nullptr : identity_field_info(static_cast<std::uint16_t>(field_id));
  return info == nullptr ? "unknown" : info->name.data();
}

const char* ccd_verdict_name(uint32_t verdict) noexcept {
  return verdict > CCD_VERDICT_UNKNOWN ? "unknown" : name_of(static_cast<Verdict>(verdict)).data();
}

ccd_status ccd_digest128(const void* bytes, size_t size, uint8_t out[16], ccd_error* error) noexcept {
  return guarded(error, [&]() -> Status {
    if (out == nullptr || (bytes == nullptr && size > 0)) return argument_error("bytes or out is NULL");
    const Digest128 digest = digest128({static_cast<const std::byte*>(bytes), size});
    std::copy(digest.begin(), digest.end(), out);
    return {};
  });
}

ccd_status ccd_card_get_identity_id(const ccd_card* card, uint32_t index, uint32_t* field_id,
                                    ccd_error* error) noexcept {
  return guarded(error, [&]() -> Status {
    if (card == nullptr || field_id == nullptr) return argument_error("card or field_id is NULL");
    const auto& values = card->reader.header().identity.values();
    if (index >= values.size()) return argument_error("no identity value " + std::to_string(index));
    *field_id = values[index].field_id;
    return {};
  });
}

ccd_status ccd_card_get_identity(const ccd_card* card, uint32_t field_id, uint32_t* value_type, void* out,
                                 size_t capacity, size_t* size, ccd_error* error) noexcept {
  return guarded(error, [&]() -> Status {
    auto value = find_value(card, field_id);
    if (!value) return value.error();
    if (value_type != nullptr) *value_type = static_cast<std::uint32_t>((*value)->type);
    return give_array(std::span<const char>((*value)->bytes), static_cast<char*>(out), capacity, size);
  });
}

ccd_status ccd_card_format_identity(const ccd_card* card, uint32_t field_id, char* out, size_t capacity,
                                    size_t* size, ccd_error* error) noexcept {
  return guarded(error, [&]() -> Status {
    auto value = find_value(card, field_id);
    if (!value) return value.error();
    const std::string text = format_identity_value(**value);
    return give_array(std::span<const char>(text.c_str(), text.size() + 1), out, capacity, size);
  });
}

ccd_status ccd_card_match(const ccd_card* card, const ccd_identity_value* target, size_t target_count,
                          const char* const* allow, size_t allow_count, ccd_field_verdict* verdicts,
                          size_t capacity, size_t* count, ccd_error* error) noexcept {
  return guarded(error, [&]() -> Status {
    if (card == nullptr) return argument_error("card is NULL");
    if (target == nullptr && target_count > 0) return argument_error("target is NULL");
    auto names = take_allow(allow, allow_count);
    if (!names) return names.error();
    Identity identity;
    for (std::size_t i = 0; i < target_count; ++i) {
      auto value = take_identity_value(target[i]);
      if (!value) return value.error();
      identity.set(std::move(*value));
    }
    return match(card, identity, *names, {verdicts, capacity, count});
  });
}

ccd_status ccd_card_match_card(const ccd_card* card, const ccd_card* target, const char* const* allow,
                               size_t allow_count, ccd_field_verdict* verdicts, size_t capacity,
                               size_t* count, ccd_error* error) noexcept {
  return guarded(error, [&]() -> Status {
    if (card == nullptr || target == nullptr) return argument_error("card or target is NULL");
    auto names = take_allow(allow, allow_count);
    if (!names) return names.error();
    return match(card, target->reader.header().identity, *names, {verdicts, capacity, count});
  });
}
