#pragma once

#include <sys/resource.h>

#include <cstdint>

// Sanitizers keep freed blocks back and a shadow of every byte: a bound on memory says little of us there.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr std::uint64_t kSanitizerFactor = 8;
#else
inline constexpr std::uint64_t kSanitizerFactor = 1;
#endif

/// Most bytes that this process ever held.
inline std::uint64_t peak_memory() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::uint64_t>(usage.ru_maxrss) * 1024;
}
