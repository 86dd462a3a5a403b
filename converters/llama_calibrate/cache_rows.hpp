#pragma once

#include "head_order.hpp"
#include "linear_map.hpp"
#include "llama_cpp/state_file.hpp"
#include "llama_live/live_sequence.hpp"

/// Keys and values of a sequence, and where they lie in its state.
namespace cachecard::llama_calibrate {

/// One stream of a state. Rows lie in token order, one row_bytes behind the other, in f16.
struct StateStream {
  StreamRecord record;
  HeadOrder order;
  std::uint64_t offset = 0;
  std::uint64_t row_bytes = 0;

  bool is_key() const { return record.stream == static_cast<std::uint8_t>(StreamKind::kKey); }
};

struct SequenceState {
  llama_live::StateBlob blob;
  CardHeader header;                 ///< as a capture of the sequence would have it
  std::vector<StateStream> streams;  ///< ascending by (layer, stream)
  std::size_t token_count = 0;
};

/// Nothing where the cache of such a model is keys and values with at most one set of rotary frequencies.
/// Errors: unsupported_feature naming architecture and cause
Status check_model(const llama_cpp::ModelFacts& facts);

/// Needs: check_model; a sequence from position 0 without gaps. Errors: those of read_sequence, parse_state, state_source
Result<SequenceState> read_state(llama_context* context, llama_seq_id sequence, const llama_cpp::ModelFacts& facts);

/// A stream in card order, embedding off. turns: turns_of(stream.order, ...)
Rows card_rows(const SequenceState& state, const StateStream& stream, std::span<const float> turns);

/// Puts one head's rows, in card order, back into a state's bytes. rows: [token][head_dim]
void put_head(const StateStream& stream, std::uint32_t head, const Rows& rows, std::span<const float> turns,
              std::span<std::byte> state);

}  // namespace cachecard::llama_calibrate
