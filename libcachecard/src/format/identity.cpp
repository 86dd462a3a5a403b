#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>

#include "cachecard/card.hpp"

namespace cachecard {
namespace {

using F = IdentityField;
using T = ValueType;

// spec: FORMAT.md#identity-fields
constexpr std::array kFields{
    IdentityFieldInfo{F::kArchitecture, "architecture", T::kText},
    IdentityFieldInfo{F::kWeightsDigest, "weights_digest", T::kDigest},
    IdentityFieldInfo{F::kSourceId, "source_id", T::kText},
    IdentityFieldInfo{F::kWeightsQuantization, "weights_quantization", T::kText},
    IdentityFieldInfo{F::kWeightsContainer, "weights_container", T::kText},
    IdentityFieldInfo{F::kAdapters, "adapters", T::kText},
    IdentityFieldInfo{F::kTokenizerDigest, "tokenizer_digest", T::kDigest},
    IdentityFieldInfo{F::kVocabSize, "vocab_size", T::kU64},
    IdentityFieldInfo{F::kTemplateDigest, "template_digest", T::kDigest},
    IdentityFieldInfo{F::kRopeType, "rope_type", T::kText},
    IdentityFieldInfo{F::kRopeBase, "rope_base", T::kF64},
    IdentityFieldInfo{F::kRopeDimensionCount, "rope_dimension_count", T::kU64},
    IdentityFieldInfo{F::kRopeScaling, "rope_scaling", T::kText},
    IdentityFieldInfo{F::kRopeScaleFactor, "rope_scale_factor", T::kF64},
    IdentityFieldInfo{F::kRopeFactorsDigest, "rope_factors_digest", T::kDigest},
    IdentityFieldInfo{F::kRopeOriginalContext, "rope_original_context", T::kU64},
    IdentityFieldInfo{F::kRopeExtrapolationFactor, "rope_extrapolation_factor", T::kF64},
    IdentityFieldInfo{F::kRopeAttentionFactor, "rope_attention_factor", T::kF64},
    IdentityFieldInfo{F::kRopeBetaFast, "rope_beta_fast", T::kF64},
    IdentityFieldInfo{F::kRopeBetaSlow, "rope_beta_slow", T::kF64},
    IdentityFieldInfo{F::kModelName, "model_name", T::kText},
    IdentityFieldInfo{F::kProducer, "producer", T::kText},
};

template <class Number>
std::string bytes_of(Number number) {
  return {reinterpret_cast<const char*>(&number), sizeof(number)};
}

template <class Number>
Number number_of(const std::string& bytes) {
  Number number{};
  std::memcpy(&number, bytes.data(), std::min(bytes.size(), sizeof(number)));
  return number;
}

std::string hex_of(std::string_view bytes) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

}  // namespace

std::span<const IdentityFieldInfo> identity_fields() noexcept { return kFields; }

const IdentityFieldInfo* identity_field_info(std::uint16_t field_id) noexcept {
  for (const auto& info : kFields) {
    if (static_cast<std::uint16_t>(info.field) == field_id) return &info;
  }
  return nullptr;
}

const IdentityFieldInfo* identity_field_by_name(std::string_view name) noexcept {
  for (const auto& info : kFields) {
    if (info.name == name) return &info;
  }
  return nullptr;
}

void Identity::set(Value value) {
  const auto at = std::lower_bound(
      values_.begin(), values_.end(), value.field_id,
      [](const Value& v, std::uint16_t id) { return v.field_id < id; });
  if (at != values_.end() && at->field_id == value.field_id) {
    *at = std::move(value);
  } else {
    values_.insert(at, std::move(value));
  }
}

void Identity::set_text(IdentityField field, std::string_view text) {
  set({static_cast<std::uint16_t>(field), ValueType::kText, std::string(text)});
}
void Identity::set_u64(IdentityField field, std::uint64_t number) {
  set({static_cast<std::uint16_t>(field), ValueType::kU64, bytes_of(number)});
}
void Identity::set_f64(IdentityField field, double number) {
  set({static_cast<std::uint16_t>(field), ValueType::kF64, bytes_of(number)});
}
void Identity::set_digest(IdentityField field, const Digest128& digest) {
  set({static_cast<std::uint16_t>(field), ValueType::kDigest, bytes_of(digest)});
}
void Identity::remove(IdentityField field) {
  std::erase_if(values_, [&](const Value& v) { return v.field_id == static_cast<std::uint16_t>(field); });
}

const Identity::Value* Identity::find(IdentityField field) const {
  for (const Value& value : values_) {
    if (value.field_id == static_cast<std::uint16_t>(field)) return &value;
  }
  return nullptr;
}

std::optional<std::string> Identity::text(IdentityField field) const {
  const Value* value = find(field);
  if (value == nullptr || value->type != ValueType::kText) return std::nullopt;
  return value->bytes;
}
std::optional<std::uint64_t> Identity::u64(IdentityField field) const {
  const Value* value = find(field);
  if (value == nullptr || value->type != ValueType::kU64) return std::nullopt;
  return number_of<std::uint64_t>(value->bytes);
}
std::optional<double> Identity::f64(IdentityField field) const {
  const Value* value = find(field);
  if (value == nullptr || value->type != ValueType::kF64) return std::nullopt;
  return number_of<double>(value->bytes);
}
std::optional<Digest128> Identity::digest(IdentityField field) const {
  const Value* value = find(field);
  if (value == nullptr || value->type != ValueType::kDigest) return std::nullopt;
  return number_of<Digest128>(value->bytes);
}

std::string format_identity_value(const Identity::Value& value) {
  switch (value.type) {
    case ValueType::kText:
      return value.bytes;
    case ValueType::kU64:
      return std::to_string(number_of<std::uint64_t>(value.bytes));
    case ValueType::kF64: {
      char text[32];
      std::snprintf(text, sizeof(text), "%.17g", number_of<double>(value.bytes));
      return text;
    }
    case ValueType::kDigest:
      break;
  }
  return hex_of(value.bytes);
}

std::string to_hex(const Digest128& digest) {
  return hex_of({reinterpret_cast<const char*>(digest.data()), digest.size()});
}

std::optional<Digest128> digest_from_hex(std::string_view hex) {
  Digest128 digest{};
  if (hex.size() != 2 * digest.size()) return std::nullopt;
  constexpr std::string_view kDigits = "0123456789abcdef";
  for (std::size_t i = 0; i < hex.size(); ++i) {
    const std::size_t nibble = kDigits.find(hex[i]);
    if (nibble == std::string_view::npos) return std::nullopt;
    digest[i / 2] = static_cast<std::uint8_t>(digest[i / 2] << 4 | nibble);
  }
  return digest;
}

}  // namespace cachecard
