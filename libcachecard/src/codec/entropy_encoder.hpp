#pragma once

#include "codec/entropy_codec.hpp"
#include "codec/strip_encoder.hpp"

/// Chunks of `entropy` on their way into a card. spec: CODECS.md#entropy-encode
namespace cachecard {

/// Values of a chunk's tokens in card order, and what is known of their head vectors. Made anew for other tokens, it keeps
/// its memory.
struct ChunkValues {
  std::size_t token_count = 0;
  std::size_t element_count = 0;
  std::vector<float> values;           ///< [token][element]: RoPE and means off, exact tokens zero; 64 more behind the last
  std::vector<float> energy;           ///< [unit][token]: mean square of the head vector, where it was asked for
  std::optional<std::size_t> nonfinite;  ///< the first token of them that is not exact and not finite

  /// Of a strip that begins at this channel of the row.
  kernel::StripValues strip(std::uint32_t first) const { return {values.data() + first, element_count}; }
  std::span<const float> unit_energy(std::size_t unit) const {
    return energy.empty() ? std::span<const float>() : std::span(energy).subspan(unit * token_count, token_count);
  }
};

/// What load_values finds out about the values, besides themselves.
enum class ValueFacts : std::uint8_t { kNone, kFinite, kFiniteAndEnergy };

/// first, count: tokens of the chunk that are made.   rows, angles: of all of the chunk's tokens; angles may be null
void load_values(const PlanesStream& order, std::span<const std::uint32_t> group_widths, const EntropyTokens& tokens,
                 std::size_t first, std::size_t count, std::span<const std::byte> rows, const float* angles,
                 ValueFacts facts, ChunkValues& out);

/// What one task of encoding needs; kept from task to task.
struct EntropyScratch {
  std::vector<std::byte> rows;
  ChunkValues chunk;
  StripRows strip;
  StripBuffers buffers;
};

/// Scale of a head vector: whole octaves of its energy relative to the stream's, which are quarter octaves of step.
std::int8_t vector_scale(float energy, float stream_energy);

/// The steps of one unit's tokens. energy: of the unit, by token; stream_energy 0: without vector scales, and energy may be
/// empty.
std::vector<kernel::StripToken> unit_tokens(const EntropyTokens& tokens, std::span<const std::int8_t> exponents,
                                            std::span<const float> energy, float stream_energy,
                                            std::span<const std::uint16_t> references);

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
                              const float* angles, float stream_energy, std::span<const std::uint16_t> references,
                              EntropyScratch& scratch);

/// The payload of a chunk's first tokens: its rows coded again, so that they decode to the same bits.
std::vector<std::byte> cut_entropy(const EntropyChunk& chunk, std::size_t count);

/// Bits of a chunk's payload that are not symbols, scales aside.
std::uint64_t fixed_bits(const StreamRecord& stream, std::span<const std::uint32_t> group_widths,
                         const EntropyTokens& tokens);

}  // namespace cachecard
