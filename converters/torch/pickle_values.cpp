#include "pickle_values.hpp"

#include <array>

namespace cachecard::pytorch {
namespace {

constexpr std::array<ElementInfo, 10> kElements{{
    {Element::kF32, "f32", "FloatStorage", 4},
    {Element::kF16, "f16", "HalfStorage", 2},
    {Element::kBf16, "bf16", "BFloat16Storage", 2},
    {Element::kF64, "f64", "DoubleStorage", 8},
    {Element::kI64, "i64", "LongStorage", 8},
    {Element::kI32, "i32", "IntStorage", 4},
    {Element::kI16, "i16", "ShortStorage", 2},
    {Element::kI8, "i8", "CharStorage", 1},
    {Element::kU8, "u8", "ByteStorage", 1},
    {Element::kBool, "bool", "BoolStorage", 1},
}};

}  // namespace

const ElementInfo& element_info(Element element) noexcept {
  return kElements[static_cast<std::size_t>(element)];
}

const ElementInfo* element_of_storage(std::string_view storage) noexcept {
  for (const ElementInfo& info : kElements) {
    if (info.storage == storage) return &info;
  }
  return nullptr;
}

std::string_view name_of(PickleKind kind) noexcept {
  constexpr std::array<std::string_view, 13> kNames{"None",   "bool",   "int",   "float",  "str",
                                                    "tuple",  "list",   "dict",  "global", "storage",
                                                    "tensor", "object", "object"};
  return kNames[static_cast<std::size_t>(kind)];
}

std::optional<PickleId> PickleValues::find(PickleId dict, std::string_view key) const {
  const auto& pairs = members(dict);
  for (std::size_t i = pairs.size(); i >= 2; i -= 2) {
    if (kind(pairs[i - 2]) == PickleKind::kText && text(pairs[i - 2]) == key) return pairs[i - 1];
  }
  return std::nullopt;
}

}  // namespace cachecard::pytorch
