#include "llama_live/live_capture.hpp"

#include "llama_cpp/state_source.hpp"
#include "llama_live/live_sequence.hpp"

namespace cachecard::llama_live {
namespace {

/// An opaque state shows no cells; it is taken at its word.
Status check_tokens(const llama_cpp::StateFile& state, std::size_t token_count) {
  if (token_count == 0 || state.opaque || state.caches.empty()) return {};
  const std::uint64_t cells = state.caches[0].cell_count;
  if (cells == token_count) return {};
  return Error{ErrorCode::kInvalidArgument, kNoOffset, "token_ids",
               std::to_string(token_count) + " for a sequence of " + std::to_string(cells) + " cells"};
}

}  // namespace

Result<WriteReport> capture(const LiveContext& live, const llama_cpp::ModelFacts& facts,
                            llama_seq_id sequence, ByteSink& sink, const LiveCaptureOptions& options) {
  if (Status s = check_sequence(live.context, sequence); !s) return s.error();
  if (positions_held(live.context, sequence) == 0) {
    return Error{ErrorCode::kInvalidArgument, kNoOffset, "sequence",
                 "sequence " + std::to_string(sequence) + " holds no tokens"};
  }
  auto blob = read_sequence(live.context, sequence, ~std::uint64_t{0});
  if (!blob) return blob.error();
  const MemorySource bytes(blob->bytes());
  llama_cpp::ParseOptions parsing;
  parsing.layout = kLiveLayout;
  parsing.rotated = !live.rotation_disabled;
  auto state = llama_cpp::parse_state(bytes, &facts, parsing);
  if (!state) return state.error();
  if (Status s = check_tokens(*state, options.token_ids.size()); !s) return s.error();
  state->token_ids.assign(options.token_ids.begin(), options.token_ids.end());
  auto source = llama_cpp::state_source(bytes, *std::move(state), facts);
  if (!source) return source.error();
  CardOptions card = options.card;
  card.provenance.operation = ProvenanceOp::kCapture;
  card.provenance.text = std::string("live capture: libllama ") + llama_version();
  return write_card(**source, sink, card);
}

}  // namespace cachecard::llama_live
