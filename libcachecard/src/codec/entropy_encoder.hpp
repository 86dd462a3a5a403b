#pragma once

#include "codec/entropy_codec.hpp"
#include "codec/strip_encoder.hpp"

/// Chunks of `entropy` on their way into a card. spec: CODECS.md#entropy-encode
namespace cachecard {

/// A chunk's values in card order, and what is known of its head vectors.
struct ChunkValues {
  std::size_t token_count = 0;
  std::vector<float> values;           ///< [token][element]: RoPE and means off
  std::vector<float> energy;           ///< [unit][token]: mean square of the head vector
  std::optional<std::size_t> nonfinite;  ///< the first token that is not exact and not finite
};

/// angles: of the chunk's tokens, or null
ChunkValues chunk_values(const PlanesStream& order, std::span<const std::uint32_t> group_widths,
                         const EntropyTokens& tokens, std::span<const std::byte> rows, const float* angles);

/// Scale of a head vector: whole octaves of its energy relative to the stream's, which are quarter octaves of step.
std::int8_t vector_scale(float energy, float stream_energy);

/// The steps of one unit's tokens. energy: of the unit, by token; stream_energy 0: without vector scales.
std::vector<kernel::StripToken> unit_tokens(const EntropyTokens& tokens, std::span<const std::int8_t> exponents,
                                            std::span<const float> energy, float stream_energy,
                                            std::span<const std::uint16_t> references);

/// Values [token][64] of the channels that a strip has.
void strip_values(const ChunkValues& chunk, std::uint32_t first, std::uint32_t channels, std::vector<float>& out);

enum class EntropyOutcome : std::uint8_t {
  kCoded,
  kNonFinite,   ///< token says where
  kOutOfReach,  ///< a value that rows cannot hold, or escapes above an eighth
  kWorse,       ///< not smaller than the rows themselves
};

struct EntropyEncoded {
  EntropyOutcome outcome = EntropyOutcome::kCoded;
  std::uint64_t token = 0;
  std::vector<std::byte> payload;
};

/// stream_energy: as in unit_tokens   references: of the chunk's tokens, or empty
EntropyEncoded encode_entropy(const EntropyStream& stream, const EntropyTokens& tokens, std::span<const std::byte> rows,
                              const float* angles, float stream_energy, std::span<const std::uint16_t> references);

/// The payload of a chunk's first tokens: its rows coded again, so that they decode to the same bits.
std::vector<std::byte> cut_entropy(const EntropyChunk& chunk, std::size_t count);

/// Bits of a chunk's payload that are not symbols, scales aside.
std::uint64_t fixed_bits(const StreamRecord& stream, std::span<const std::uint32_t> group_widths,
                         const EntropyTokens& tokens);

}  // namespace cachecard
