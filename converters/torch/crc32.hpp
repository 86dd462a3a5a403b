#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace cachecard::pytorch {

/// CRC-32 as zip has it (polynomial 0xEDB88320). Start with 0; feed the result back to go on.
std::uint32_t crc32(std::uint32_t crc, std::span<const std::byte> bytes) noexcept;

}  // namespace cachecard::pytorch
