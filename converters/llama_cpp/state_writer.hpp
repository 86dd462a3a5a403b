#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "cachecard/reader.hpp"
#include "state_file.hpp"

namespace cachecard::llama_cpp {

/// How a target wants its state: read from a file that it wrote itself (template_of), or chosen.
struct StateTemplate {
  LlamaContainer container = LlamaContainer::kSequenceFile;
  StateLayout layout = StateLayout::k11_4;
  bool server_blob = false;  ///< token ids as llama-server packs them
  struct Cache {
    std::uint32_t n_stream = 1;
    bool cell_ext = false;  ///< M-RoPE: cells carry x, y and token
    bool v_trans = false;
    std::uint32_t n_rot_k = 0;
    std::uint32_t n_rot_v = 0;
    std::vector<DType> key_types;    ///< per layer of this cache
    std::vector<DType> value_types;  ///< empty: K only
    std::vector<std::uint64_t> key_row_bytes;
    std::vector<std::uint64_t> value_row_bytes;
  };
  std::vector<Cache> caches;       ///< 1 plain, 2 sliding pair, none: opaque state
  std::uint32_t stream_index = 0;  ///< the target slot's stream where n_stream > 1
  std::string architecture;
};

/// The template of a state that the target saved (one token is enough).
/// Errors: geometry_mismatch for an empty state (it shows no types)
Result<StateTemplate> template_of(const StateFile& state);

/// The template that a card's own source layout and streams ask for.
Result<StateTemplate> template_for(const CardReader& card, StateLayout layout, LlamaContainer container);

struct StateWriteOptions {
  std::uint64_t token_count = 0;    ///< prefix to write; 0: all
  std::int64_t position_shift = 0;  ///< added to every position; keys turn through the card's RoPE table
  bool allow_nonfinite = false;
  ParallelFor parallel;
  std::function<bool(std::uint64_t done, std::uint64_t total)> progress;
};

struct StateWriteReport {
  std::uint64_t file_size = 0;
  std::uint64_t token_count = 0;
  std::int64_t next_position = 0;
  std::uint64_t nonfinite_values = 0;
  double max_conversion_loss = 0.0;  ///< largest |x - stored|; in the rotated values where the target rotates
  std::vector<std::string> notes;    ///< what the user should know, one line each
};

/// Writes a card's cache as the target wants it. Types convert, to blocks by ggml's own recipe; rotation is
/// put on or taken off; keys that the card holds without RoPE get it. Same type, rotation and positions: the
/// card's own bytes. Errors: geometry_mismatch (field by field), not_restorable, partial_card,
/// tokens_unknown,
///         position_mismatch, non_finite (naming layer, stream, token), and the reader's
Result<StateWriteReport> write_state(const CardReader& card, const StateTemplate& target, RandomSink& sink,
                                     const StateWriteOptions& options = {});

/// Replays the card's source layout: the foreign file byte for byte.
/// Errors: invalid_argument where the card has no source layout, and the reader's
Result<StateWriteReport> restore_source(const CardReader& card, RandomSink& sink,
                                        const StateWriteOptions& options = {});

}  // namespace cachecard::llama_cpp
