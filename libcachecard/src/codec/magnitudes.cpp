#include "codec/magnitudes.hpp"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>

#include "kernel/floats.hpp"

namespace cachecard {
namespace {

/// Bits without their signs are in the order of magnitudes. Signed words: their maximum vectorises everywhere.
template <class Word>
Word largest_bits(std::span<const std::byte> in, Word magnitude) {
  Word largest = 0;
  for (std::size_t i = 0; i < in.size() / sizeof(Word); ++i) {
    Word word;
    std::memcpy(&word, in.data() + i * sizeof(Word), sizeof(Word));
    largest = std::max(largest, static_cast<Word>(word & magnitude));
  }
  return largest;
}

}  // namespace

// What comes to 65,520 is rounded to f16's infinity, so that f32's rounding has room.
double safe_magnitude(DType dtype) { return dtype == DType::kF16 ? 65504.0 : 3.3e38; }

double largest_magnitude(DType dtype, std::span<const std::byte> elements) {
  if (dtype == DType::kF32) return double{std::bit_cast<float>(largest_bits<std::int32_t>(elements, 0x7FFFFFFF))};
  const auto bits = static_cast<std::uint16_t>(largest_bits<std::int16_t>(elements, 0x7FFF));
  return double{dtype == DType::kF16 ? kernel::f32_from_f16(bits) : kernel::f32_from_bf16(bits)};
}

}  // namespace cachecard
