#pragma once

#include <span>
#include <vector>

#include "cachecard/card.hpp"
#include "format/planes_layout.hpp"
#include "kernel/planes.hpp"

/// The codec `planes`: rows to bit planes and back. spec: CODECS.md#planes
namespace cachecard {

inline constexpr std::size_t kPlanesRunRows = 32;  ///< rows that one call of the kernel decodes at most

/// What fixes the coding of a stream in a segment: its parameters, opened.
class PlanesStream {
 public:
  /// Needs: check_planes_parameters passed.
  PlanesStream(const StreamRecord& stream, const Parameters& parameters, const RopeTable* table);

  kernel::PlanesShape shape() const;
  DType dtype() const { return dtype_; }
  std::size_t row_size() const { return row_size_; }
  std::size_t unit_count() const { return std::size_t{head_count_} * group_widths_.size(); }
  std::uint32_t element_count() const { return head_count_ * head_dim_; }
  bool rope_removed() const { return pairing_ != RopePairing::kNone; }
  std::uint32_t pair_count() const { return rotated_width_ / 2; }
  const float* mean() const { return mean_.empty() ? nullptr : mean_.data(); }
  float unrotate_gain() const { return unrotate_gain_; }
  /// No value is larger where none is beyond largest in card order, before rotation, mean and RoPE.
  double bound(double largest) const;
  /// By how much RoPE makes a channel larger at most than the larger one of its pair; 1 without.
  double rope_bound() const { return rope_bound_; }
  /// The same, of taking RoPE off.
  double unrope_bound() const { return unrope_bound_; }
  /// 1 / sqrt(hadamard_size).
  float rotation_scale() const { return rotation_scale_; }

 private:
  std::vector<std::uint32_t> group_widths_;
  std::vector<float> mean_;
  DType dtype_;
  std::size_t row_size_;
  std::uint32_t head_count_;
  std::uint32_t head_dim_;
  std::uint32_t hadamard_size_;
  RopePairing pairing_ = RopePairing::kNone;
  std::uint32_t rotated_offset_ = 0;
  std::uint32_t rotated_width_ = 0;
  float unrotate_gain_ = 1.0f;
  double rope_bound_ = 1.0;
  double unrope_bound_ = 1.0;
  float rotation_scale_ = 1.0f;
};

/// Floats of scratch that PlanesChunk::decode needs.
std::size_t planes_decode_scratch(const PlanesStream& stream);

/// A chunk at hand: head parsed, planes' digests checked.
struct PlanesChunk {
 public:
  const PlanesStream& stream;
  const PlanesTokens& tokens;
  const PlanesHead& head;
  std::span<const std::byte> payload;
  const float* angles;  ///< of the chunk's tokens, or null

  /// Tokens [first, first + count) of the chunk, in the stream's type and channel order, each row_stride bytes behind the
  /// one before; target.dtype must be the stream's.   Needs: scratch of planes_decode_scratch floats
  void decode(std::size_t first, std::size_t count, const kernel::RowTarget& target, std::int64_t row_stride,
              std::span<float> scratch) const;
  /// No coded value is larger.
  double bound() const;
  /// Adds for each coded token half a step squared for every value. bounds: by token of the chunk
  void add_squared_bounds(std::span<double> bounds) const;

 private:
  std::size_t run_of(std::size_t token, std::size_t end) const;
  void copy_exact(std::size_t token, const kernel::RowTarget& target) const;
};

/// Why a chunk was not coded.
enum class PlanesOutcome : std::uint8_t {
  kCoded,
  kNonFinite,   ///< token and channel say where
  kOutOfReach,  ///< a head vector that the scale does not reach, or values that would decode to infinities
  kWorse,       ///< at 8 bits, and q8_0 would keep it better for its size
};

struct PlanesEncoded {
  PlanesOutcome outcome = PlanesOutcome::kCoded;
  std::uint64_t token = 0;           ///< of the chunk; for kNonFinite and kOutOfReach
  std::vector<std::byte> payload;
  std::uint64_t digest_size = 0;
  double bound = 0.0;  ///< no value decodes to a larger one, however many planes are left
};

/// Rows [token][channel] of a chunk as planes.
/// angles: of the chunk's tokens, or null   Spec: CODECS.md#planes-encode
PlanesEncoded encode_planes(const PlanesStream& stream, const PlanesTokens& tokens, std::span<const std::byte> rows,
                            const float* angles);

/// Whether all coded values of a payload decode to finite ones, however many planes are left, found out by decoding it.
/// frame: of the chunk   angles: as in encode_planes
bool decodes_finite(const StreamRecord& record, FrameHeader frame, const PlanesStream& stream, const PlanesTokens& tokens,
                    const float* angles, const PlanesEncoded& encoded);

/// The payload of some of a chunk's tokens: codes and scales are moved, never made anew.
/// kept: how the tokens [first, first + kept.coded_width.size()) lie in the new chunk; its plane_count may be smaller.
std::vector<std::byte> cut_planes(const PlanesChunk& chunk, std::size_t first, const PlanesTokens& kept,
                                  std::uint64_t& digest_size);

/// Learns a stream's means and whether rotation helps, from rows in token order.
class PlanesStatistics {
 public:
  /// stream: with the rotation and RoPE that are wished for, no means.
  explicit PlanesStatistics(const PlanesStream& stream) : stream_(stream), sum_(stream.element_count()), squares_(stream.element_count()) {}

  /// coded: whether a token is not exact, by token of rows. Rows with a value that is not finite are left out.
  void add(std::span<const std::byte> rows, std::span<const std::uint8_t> coded, const float* angles);
  /// The f16 means, or nothing where they hold less than 1/64 of the energy.
  std::vector<std::byte> means() const;
  /// Whether the sampled head vectors have smaller ranges when rotated with n.
  bool rotation_helps(std::span<const std::byte> means, std::uint32_t n) const;

 private:
  const PlanesStream& stream_;
  std::vector<double> sum_;
  std::vector<double> squares_;
  std::uint64_t count_ = 0;
  std::vector<float> samples_;  ///< rows in card order
};

}  // namespace cachecard
