#pragma once

#include <string_view>

namespace cachecard::pytorch {

/// What Python's pickletools calls an opcode; empty for a byte that is none.
std::string_view pickle_opcode_name(unsigned char code) noexcept;

}  // namespace cachecard::pytorch
