#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cachecard/card.hpp"
#include "cachecard/io.hpp"

/// llama.cpp's KV state as a file: parsed to its last byte, nothing guessed.
/// source: llama.cpp llama-kv-cache.cpp, llama-context.cpp, server-context.cpp (v0.6.0 and 0c1e570)
namespace cachecard::llama_cpp {

/// What a state does not say about itself, from a model's GGUF metadata or from flags.
struct ModelFacts {
  Identity identity;
  std::string architecture;
  std::uint32_t layer_count = 0;
  std::vector<std::uint32_t> kv_head_count;  ///< per layer; 0: no attention cache in that layer
  std::vector<std::uint32_t> key_head_dim;   ///< per layer
  std::vector<std::uint32_t> value_head_dim;
  std::uint32_t rope_dimension_count = 0;  ///< 0: no rotary embedding
  std::uint32_t rotated_offset = 0;  ///< first rotated channel of a key head (MLA: after the latent part)
  RopePairing rope_pairing = RopePairing::kNone;
  std::vector<std::uint8_t> layer_has_rope;    ///< per layer; some models rotate only some
  bool key_only = false;                       ///< MLA: rows of latent and rotated part, no V tensors
  bool cell_ext = false;                       ///< 12 more bytes a cell (M-RoPE)
  std::uint32_t sliding_window = 0;            ///< 0: none
  std::vector<std::uint8_t> layer_is_sliding;  ///< per layer
  enum class Module : std::uint8_t { kPlain, kSlidingPair, kOther } module = Module::kPlain;
  std::optional<RopeTable> rope_table;  ///< where GGUF metadata fixes it
};

/// Layouts by (session version, sequence version).
enum class StateLayout : std::uint8_t { k10_3, k11_4 };

/// Rotation of quantised caches: recorded from 11/4 on, otherwise a flag of the user's.
struct ParseOptions {
  std::optional<StateLayout> layout;  ///< for containers without a version (memory blobs)
  std::optional<bool> rotated;        ///< for quantised 10/3 states
};

/// One layer's K or V in one cache.
struct TensorBlock {
  DType dtype = DType::kF16;
  std::uint64_t row_bytes = 0;      ///< of one cell; for v_trans: element bytes x row elements
  std::uint64_t data_offset = 0;    ///< in the file
  std::uint64_t header_offset = 0;  ///< of its i32 type
};

/// One llama_kv_cache payload: of plain attention, or one half of a sliding-window pair.
struct CacheBlock {
  std::uint64_t offset = 0;  ///< of n_stream
  std::uint64_t end_offset = 0;
  std::uint32_t n_stream = 1;
  std::uint32_t stream_index = 0;  ///< the one with cells
  std::uint64_t cell_count = 0;
  std::vector<std::int32_t> positions;  ///< by cell, in file order
  bool cell_ext = false;                ///< cells carry x, y and token (12 bytes)
  std::int64_t max_position = -1;       ///< largest position, x and y of the ext included
  bool v_trans = false;
  std::uint32_t n_layer = 0;
  std::uint32_t n_rot_k = 0;  ///< 0: not rotated; in the file from 11/4 on, else by ParseOptions
  std::uint32_t n_rot_v = 0;
  std::vector<TensorBlock> keys;
  std::vector<TensorBlock> values;  ///< empty for K-only caches
};

/// A parsed file. Every byte belongs to the header, a cache block, an opaque range or the trailing bytes.
struct StateFile {
  LlamaContainer container = LlamaContainer::kSequenceFile;
  StateLayout layout = StateLayout::k11_4;
  std::uint32_t version = 0;               ///< as in the file; 0 where the container has none
  std::string architecture;                ///< session and whole-context only
  std::vector<std::int32_t> header_words;  ///< the token list or server blob, verbatim
  bool server_blob = false;
  std::vector<std::int32_t> token_ids;  ///< from either; empty: unknown
  std::uint64_t payload_offset = 0;     ///< first byte of the memory payload
  std::vector<CacheBlock> caches;       ///< 1 plain, 2 sliding pair (base, sliding)
  bool opaque = false;                  ///< payload kept whole (recurrent, hybrid, DSA, ...)
  bool rotation_known = true;           ///< false: quantised 10/3 and ParseOptions did not say
  std::uint64_t payload_end = 0;        ///< where trailing bytes (checkpoints) start
  std::uint64_t file_size = 0;
};

/// Parses a whole file. model may be null: then heads are unknown, and only plain caches without
/// cell_ext parse.
/// Errors: foreign_input (what, where, found, allowed; layout 9/2 and several sequences by name),
///         truncated, limit_exceeded, io
Result<StateFile> parse_state(const ByteSource& source, const ModelFacts* model,
                              const ParseOptions& options = {});

/// Whether the first bytes look like one of the four containers.
bool looks_like_state(std::span<const std::byte> head);

}  // namespace cachecard::llama_cpp
