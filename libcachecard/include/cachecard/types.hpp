#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace cachecard {

/// Format version that this library writes and reads. spec: FORMAT.md#versions
inline constexpr std::uint16_t kFormatMajor = 0;
inline constexpr std::uint16_t kFormatMinor = 2;

/// What a frame holds. Numbers are never reused. spec: FORMAT.md#section-types
enum class SectionType : std::uint16_t {
  kTokenIds = 1,
  kText = 2,
  kPositions = 3,
  kBitWidthMap = 4,
  kParameters = 5,
  kReferences = 6,
  kRopeTable = 7,
  kChunk = 8,
  kMedia = 9,
  kSourceLayout = 10,
  kSourceBytes = 11,
  kCanary = 12,
  kProvenance = 13,
  kProfileDigest = 14,
  kSummary = 15,
  kDirectory = 16,
  kLanes = 17,
  kModelProfile = 18,
};

/// What a stream is to its layer. spec: FORMAT.md#streams
enum class StreamKind : std::uint8_t { kKey = 0, kValue = 1, kLatent = 2, kOpaque = 3 };

/// spec: CODECS.md. Numbers are never reused.
enum class Codec : std::uint8_t { kRaw = 0, kGgml = 1, kPlanes = 2, kEntropy = 3 };

/// Byte compressor of a frame's payload. spec: CODECS.md#byte-compressors
enum class Compressor : std::uint8_t { kNone = 0, kZstd = 1, kSplitZstd = 2 };

/// Element types; ggml's own numbers, so that one table serves both. 255: bytes without a type.
/// source: ggml.h enum ggml_type
enum class DType : std::uint8_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kIq4Nl = 20,
  kBf16 = 30,
  kBytes = 255,
};

/// Whether a key stream holds keys before or after rotary embedding.
enum class RopeState : std::uint8_t { kNone = 0, kPreRope = 1, kPostRope = 2 };

/// Which channels form a RoPE pair: (2i, 2i+1), or (i, i + rotated_width/2).
enum class RopePairing : std::uint8_t { kNone = 0, kInterleaved = 1, kHalfSplit = 2 };

enum class ChunkOrder : std::uint8_t { kLayerMajor = 0, kSpanMajor = 1 };

/// Which prefixes of a card a runtime can restore. spec: FORMAT.md#restorable-prefixes
enum class Restorable : std::uint8_t { kAnyPrefix = 0, kWholeOnly = 1, kFromCount = 2 };

/// header.flags
inline constexpr std::uint32_t kHeaderNotAPrefix = 1u << 0;
inline constexpr std::uint32_t kHeaderPartialLayers = 1u << 1;
inline constexpr std::uint32_t kHeaderTokensUnknown = 1u << 2;
inline constexpr std::uint32_t kHeaderFlagsKnown = 7;

/// frame_header.flags
inline constexpr std::uint16_t kFrameRequired = 1u << 0;
inline constexpr std::uint16_t kFrameCopySafe = 1u << 1;
inline constexpr std::uint16_t kFrameFlagsKnown = 3;

/// prologue.required_features: "may occur". spec: FORMAT.md#features
inline constexpr std::uint64_t kFeatureGgml = 1u << 0;
inline constexpr std::uint64_t kFeatureZstd = 1u << 1;
inline constexpr std::uint64_t kFeaturePlanes = 1u << 2;
inline constexpr std::uint64_t kFeatureEntropy = 1u << 3;
inline constexpr std::uint64_t kRequiredFeaturesKnown = 15;

/// prologue.optional_features
inline constexpr std::uint64_t kFeatureText = 1u << 0;
inline constexpr std::uint64_t kFeatureMedia = 1u << 1;
inline constexpr std::uint64_t kFeatureSourceLayout = 1u << 2;
inline constexpr std::uint64_t kFeatureCanary = 1u << 3;

/// No layer, no stream: the frame belongs to the segment or to the card.
inline constexpr std::uint32_t kNoLayer = 0xFFFFFFFFu;
inline constexpr std::uint8_t kNoStream = 0xFFu;
inline constexpr std::uint32_t kNoSegment = 0xFFFFFFFFu;

/// Offsets of the bit-width map with a meaning of their own, in half bits.
inline constexpr std::int8_t kOffsetExact = 127;
inline constexpr std::int8_t kOffsetFine = 126;
inline constexpr std::int8_t kOffsetAbsent = -128;

/// A stream of the map from which no planes were dropped.
inline constexpr std::uint8_t kNoCap = 255;

/// Properties of an element type. Blocks hold block_elements values in block_bytes bytes.
struct DTypeInfo {
  DType dtype;
  std::string_view name;
  std::uint32_t block_elements;
  std::uint32_t block_bytes;
  std::uint8_t width_half_bits;  ///< bits per value, in half bits, rounded as the spec's table says
};

/// nullptr for a number that names no type.
const DTypeInfo* dtype_info(DType dtype) noexcept;
const DTypeInfo* dtype_by_name(std::string_view name) noexcept;

/// Spelling of an enumerator as in the spec; "unknown" for a number that names nothing.
std::string_view name_of(SectionType type) noexcept;
std::string_view name_of(StreamKind kind) noexcept;
std::string_view name_of(Codec codec) noexcept;
std::string_view name_of(Compressor compressor) noexcept;
std::string_view name_of(DType dtype) noexcept;
std::string_view name_of(RopeState state) noexcept;
std::string_view name_of(RopePairing pairing) noexcept;
std::string_view name_of(ChunkOrder order) noexcept;
std::string_view name_of(Restorable restorable) noexcept;

/// Bounds that a reader holds a card to before it allocates. spec: FORMAT.md#limits
struct Limits {
  std::uint64_t header_bytes = 256u << 10;
  std::uint64_t section_bytes = 16u << 20;  ///< stored or decoded, of every section but the directory
  std::uint64_t map_bytes = 64u << 20;      ///< decoded, of all bit-width maps
  std::uint64_t summary_bytes = 4096;
  std::uint64_t frame_count = 1u << 20;
  std::uint64_t token_count = 1u << 22;
  std::uint64_t stream_count = 1u << 14;
  std::uint64_t segment_count = 1u << 12;
};

/// Values of a type that are NaN or infinite; of block types all of a block whose scale or minimum is. Needs: whole elements or blocks
std::uint64_t count_nonfinite(DType dtype, std::span<const std::byte> bytes);

}  // namespace cachecard
