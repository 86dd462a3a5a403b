#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "cachecard/records.hpp"

namespace cachecard {

/// XXH3 of bytes. They find accidents, not attackers. spec: FORMAT.md#digests
std::uint64_t digest64(std::span<const std::byte> bytes) noexcept;
/// Canonical (big-endian) byte order of XXH3-128, as xxhsum prints it.
Digest128 digest128(std::span<const std::byte> bytes) noexcept;

/// The same, over bytes that come in pieces.
class Digester {
 public:
  Digester();
  Digester(Digester&&) noexcept;
  Digester& operator=(Digester&&) noexcept;
  ~Digester();
  void update(std::span<const std::byte> bytes) noexcept;
  std::uint64_t finish64() const noexcept;
  Digest128 finish128() const noexcept;
  /// finish128 as if these bytes had come too.
  Digest128 finish128_with(std::span<const std::byte> last) const noexcept;
  void reset() noexcept;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace cachecard
