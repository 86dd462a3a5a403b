#include "codec/scale_code.hpp"

#include <algorithm>
#include <array>
#include <cstring>

#include "kernel/entropy_frequencies.hpp"

namespace cachecard {
namespace {

constexpr std::int32_t kSymbols = 31;  ///< differences -15 to 15
constexpr std::uint32_t kLongest = 12;
constexpr std::uint32_t kFirstBits = 4;

struct Code {
  std::array<std::uint16_t, kSymbols> bits{};  ///< in the order that they are written: first bit lowest
  struct Entry {
    std::int8_t difference = 0;
    std::uint8_t length = 0;  ///< 0: no code begins like this
  };
  std::array<Entry, 1u << kLongest> entries{};  ///< by the next kLongest bits

  constexpr Code() {
    std::uint32_t next = 0;
    for (std::uint32_t length = 1; length <= kLongest; ++length) {
      next <<= 1;
      for (std::int32_t s = 0; s < kSymbols; ++s) {
        if (kernel::kScaleCodeLengths[static_cast<std::size_t>(s)] != length) continue;
        std::uint32_t reversed = 0;
        for (std::uint32_t b = 0; b < length; ++b) reversed |= (next >> b & 1u) << (length - 1 - b);
        bits[static_cast<std::size_t>(s)] = static_cast<std::uint16_t>(reversed);
        for (std::uint32_t i = reversed; i < entries.size(); i += 1u << length) {
          entries[i] = {static_cast<std::int8_t>(s - 15), static_cast<std::uint8_t>(length)};
        }
        ++next;
      }
    }
  }
};
const Code kCode;

/// Least significant bit first.
class BitWriter {
 public:
  void put(std::uint32_t bits, std::uint32_t count) {
    for (std::uint32_t i = 0; i < count; ++i, ++size_) {
      if (size_ % 8 == 0) bytes_.push_back(std::byte{0});
      bytes_.back() |= static_cast<std::byte>((bits >> i & 1u) << (size_ % 8));
    }
  }
  std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
  std::size_t size_ = 0;
};

class BitReader {
 public:
  explicit BitReader(std::span<const std::byte> bytes) : bytes_(bytes) {}
  /// The next kLongest bits; zeros behind the end.
  std::uint32_t peek() const {
    std::uint32_t window = 0;
    if (place_ / 8 + sizeof(window) <= bytes_.size()) {
      std::memcpy(&window, bytes_.data() + place_ / 8, sizeof(window));
      return window >> (place_ % 8) & ((1u << kLongest) - 1);
    }
    for (std::size_t i = 0; i < 3; ++i) {
      const std::size_t at = place_ / 8 + i;
      if (at < bytes_.size()) window |= static_cast<std::uint32_t>(bytes_[at]) << (8 * i);
    }
    return window >> (place_ % 8) & ((1u << kLongest) - 1);
  }
  void skip(std::uint32_t count) { place_ += count; }
  /// Whether the last byte was reached, nothing was read behind it, and what is left is zero.
  bool ended() const { return (place_ + 7) / 8 == bytes_.size() && (place_ % 8 == 0 || peek() == 0); }

 private:
  std::span<const std::byte> bytes_;
  std::size_t place_ = 0;
};

}  // namespace

std::vector<std::byte> encode_scales(std::span<const std::vector<std::int8_t>> units) {
  BitWriter out;
  for (const auto& unit : units) {
    for (std::size_t t = 0; t < unit.size(); ++t) {
      if (t == 0) {
        out.put(static_cast<std::uint32_t>(unit[0] - kLeastScale), kFirstBits);
        continue;
      }
      const auto symbol = static_cast<std::size_t>(unit[t] - unit[t - 1] + 15);
      out.put(kCode.bits[symbol], kernel::kScaleCodeLengths[symbol]);
    }
  }
  return out.take();
}

std::uint64_t scale_bits(std::span<const std::int8_t> unit) {
  std::uint64_t bits = unit.empty() ? 0 : kFirstBits;
  for (std::size_t t = 1; t < unit.size(); ++t) {
    bits += kernel::kScaleCodeLengths[static_cast<std::size_t>(unit[t] - unit[t - 1] + 15)];
  }
  return bits;
}

bool decode_scales(std::span<const std::byte> bytes, std::size_t unit_count, std::size_t coded_count,
                   std::vector<std::int8_t>& out) {
  out.clear();
  if (coded_count > 0 && bytes.size() < (unit_count * (coded_count + kFirstBits - 1) + 7) / 8) return false;
  out.resize(unit_count * coded_count);
  BitReader in(bytes);
  std::int8_t* next = out.data();
  for (std::size_t u = 0; u < unit_count; ++u) {
    std::int32_t scale = 0;
    for (std::size_t t = 0; t < coded_count; ++t) {
      if (t == 0) {
        scale = static_cast<std::int32_t>(in.peek() & 15u) + kLeastScale;
        in.skip(kFirstBits);
      } else {
        const Code::Entry entry = kCode.entries[in.peek()];
        scale += entry.difference;
        if (entry.length == 0 || scale < kLeastScale || scale > kMostScale) return false;
        in.skip(entry.length);
      }
      *next++ = static_cast<std::int8_t>(scale);
    }
  }
  return in.ended();
}

}  // namespace cachecard
