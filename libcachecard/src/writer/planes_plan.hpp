#pragma once

#include <map>
#include <optional>

#include "cachecard/writer.hpp"
#include "codec/planes_codec.hpp"
#include "codec/rope_angles.hpp"

namespace cachecard {

/// Largest power of two, at most 128, that divides every group.
std::uint32_t planes_hadamard(std::span<const std::uint32_t> group_widths);

/// Turns a source's streams into planes: the map, the parameters, then chunk by chunk.
/// Owns: nothing of the source, which must outlive it.
class PlanesPlan {
 public:
  PlanesPlan(const CacheSource& source, const CardHeader& header, const CardOptions& options)
      : source_(source), header_(header), options_(options) {}

  /// Errors: invalid_argument
  Status check_options() const;
  /// Whether a stream's chunks become planes: f32, f16 and bf16 do.
  bool codes(std::size_t stream) const;

  BitWidthMap map(std::uint32_t segment) const;

  /// Reads every stream of the segment once and makes its parameters, in stream order; nullopt where it is not coded.
  /// The digests are those of the card's sections; 0 where there is no rope_table.
  Result<std::vector<std::optional<Parameters>>> prepare(std::uint32_t segment, std::uint64_t rope_table_digest,
                                                         std::uint64_t positions_digest);

  /// A chunk's rows as planes, or why not. Thread-safe.   Needs: prepare was called for its segment
  PlanesEncoded encode(std::size_t stream, const FrameHeader& frame, std::span<const std::byte> rows);

 private:
  Status check_sums() const;
  TokenBits wider_bits(std::uint8_t by) const;
  Status learn(std::size_t stream, std::uint32_t segment, Parameters& parameters);
  std::shared_ptr<const Angles> angles(const PlanesStream& stream, std::uint64_t first, std::uint64_t count);

  const CacheSource& source_;
  const CardHeader& header_;
  const CardOptions& options_;
  BitWidthMap map_;
  std::uint64_t rope_table_digest_ = 0;
  std::uint64_t positions_digest_ = 0;
  std::map<std::size_t, PlanesStream> streams_;  ///< of the segment at hand
  AngleCache angles_;
};

}  // namespace cachecard
