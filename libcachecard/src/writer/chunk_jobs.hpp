#pragma once

#include <vector>

#include "cachecard/writer.hpp"

namespace cachecard {

inline constexpr std::uint64_t kPieceBytes = 16u << 20;  ///< opaque state and literals are cut here

/// A chunk to make: rows of a stream, or a piece of an opaque one.
struct ChunkJob {
  std::size_t stream = 0;
  std::uint32_t segment = 0;
  std::uint64_t first = 0;  ///< token, or byte of an opaque stream
  std::uint64_t count = 0;
};

inline bool is_opaque(const StreamRecord& stream) {
  return stream.stream == static_cast<std::uint8_t>(StreamKind::kOpaque);
}

/// Bytes of the source that a job covers.
std::uint64_t job_bytes(const CardHeader& header, const ChunkJob& job);

/// Jobs of a segment in the order that its record says.
std::vector<ChunkJob> plan_segment(const CardHeader& header, std::uint32_t segment, const CardOptions& options);

}  // namespace cachecard
