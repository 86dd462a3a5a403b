#pragma once

#include <cstdint>
#include <limits>
#include <optional>

namespace cachecard {

/// Sums and products of numbers read from a card; nullopt where 64 bits do not hold them.
constexpr std::optional<std::uint64_t> checked_add(std::uint64_t a, std::uint64_t b) {
  if (a > std::numeric_limits<std::uint64_t>::max() - b) return std::nullopt;
  return a + b;
}

constexpr std::optional<std::uint64_t> checked_mul(std::uint64_t a, std::uint64_t b) {
  if (b != 0 && a > std::numeric_limits<std::uint64_t>::max() / b) return std::nullopt;
  return a * b;
}

/// a rounded up to a multiple of 64; the caller has bounded a below 2^63.
constexpr std::uint64_t align64(std::uint64_t a) { return (a + 63) & ~std::uint64_t{63}; }

/// Whether [first, first + count) lies in [0, total).
constexpr bool span_within(std::uint64_t first, std::uint64_t count, std::uint64_t total) {
  return first <= total && count <= total - first;
}

}  // namespace cachecard
