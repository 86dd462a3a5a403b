#pragma once

#include <vector>

#include "cachecard/reader.hpp"
#include "state_checkpoints.hpp"
#include "state_writer.hpp"

namespace cachecard::llama_cpp {

/// Bytes of the file that are no rows: header, tensor headers.
struct StatePiece {
  std::uint64_t offset = 0;
  std::vector<std::byte> bytes;
};

/// Cell metadata of one cache, made while it is written.
struct CellTable {
  std::uint64_t offset = 0;
  std::uint64_t first_token = 0;
  std::uint64_t token_count = 0;
  std::int32_t sequence = 0;
  bool cell_ext = false;
};

/// Where one stream's rows go.
struct StateRegion {
  std::size_t stream = 0;  ///< of the card
  std::uint64_t offset = 0;
  DType dtype = DType::kF16;
  std::uint32_t hadamard_size = 1;  ///< as the target keeps it
  bool transposed = false;
  std::uint64_t first_token = 0;
  std::uint64_t token_count = 0;
};

struct StatePlan {
  std::vector<StatePiece> pieces;
  std::vector<CellTable> cells;
  std::vector<StateRegion> regions;
  std::vector<SlotCheckpoint> checkpoints;        ///< taken over from the source, in order
  std::vector<std::uint64_t> checkpoint_offsets;  ///< where the state of each goes
  std::vector<std::int32_t> token_ids;            ///< of the prefix
  std::vector<std::int32_t> positions;
  std::uint64_t opaque_offset = 0;  ///< where the opaque stream goes
  std::uint64_t opaque_size = 0;
  std::uint64_t file_size = 0;
};

/// Tokens of a card's stream that a prefix of token_count tokens takes along.
struct TokenRange {
  std::uint64_t first = 0;
  std::uint64_t count = 0;
};
TokenRange tokens_of_stream(const StreamRecord& stream, std::uint64_t token_count);

/// Card streams of one cache of the target: ascending layers, those with a window or those without.
struct CacheStreams {
  std::vector<std::size_t> keys;  ///< key or latent
  std::vector<std::size_t> values;
};
CacheStreams streams_of_cache(const CardHeader& header, bool pair, bool sliding);

/// Hadamard groups of a stream in a cache that records n_rot. The graph of MLA caches does not rotate.
std::uint32_t target_rotation(const StreamRecord& stream, std::uint32_t n_rot);

/// The order of RoPE pairs that the target's graph reads; kNone: not known, keys go as they are.
RopePairing target_pairing(const CardHeader& header, const StateTemplate& target);

/// Whether a prefix of the card fits the target; every refusal in one clear line.
/// Errors: partial_card, tokens_unknown, not_restorable, geometry_mismatch, invalid_argument
Status check_fit(const CardHeader& header, const StateTemplate& target, std::uint64_t token_count);

/// Lays the whole file out, its cells position_shift behind the card's positions.
/// Errors: as check_fit, position_mismatch, model_mismatch, the reader's
Result<StatePlan> plan_state(const CardReader& card, const StateTemplate& target, std::uint64_t token_count,
                             std::int64_t position_shift);

}  // namespace cachecard::llama_cpp
