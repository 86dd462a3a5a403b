#include "state_source.hpp"

#include <algorithm>

#include "cache_block.hpp"
#include "state_recipe.hpp"
#include "state_rows.hpp"
#include "state_streams.hpp"

namespace cachecard::llama_cpp {
namespace {

bool stays_opaque(const StateFile& state, const TokenOrders& orders) {
  return state.opaque || !orders.unordered.empty();
}

/// Reads on demand from the foreign file. Invariant: places_[i] belongs to header_.streams[i].
class StateSource final : public CacheSource {
 public:
  StateSource(const ByteSource& source, const ModelFacts& model) : source_(source) {
    header_.layer_count = model.layer_count;
    header_.identity = model.identity;
  }

  const CardHeader& header() const override { return header_; }
  std::span<const std::int32_t> token_ids() const override { return token_ids_; }
  std::span<const std::int32_t> positions() const override { return positions_; }
  const SourceLayout* source_layout() const override { return &recipe_.layout; }
  const RopeTable* rope_table() const override { return rope_table_ ? &*rope_table_ : nullptr; }

  Status read_rows(std::size_t stream_index, std::uint64_t first_token, std::uint64_t token_count,
                   std::span<std::byte> out) const override;
  Status read_opaque(std::size_t stream_index, std::uint64_t offset, std::span<std::byte> out) const override;
  Status read_literals(std::uint64_t offset, std::span<std::byte> out) const override;

  void make_opaque(const StateFile& state, bool ordered);
  Status make_streams_of(const StateFile& state, const ModelFacts& model, TokenOrders orders);

 private:
  void set_tokens(std::vector<std::int32_t> tokens, std::uint64_t count);

  const ByteSource& source_;
  CardHeader header_;
  std::vector<std::int32_t> token_ids_;
  std::vector<std::int32_t> positions_;
  std::vector<StreamPlace> places_;
  std::vector<TokenOrder> orders_;
  std::vector<std::uint64_t> cell_counts_;
  StateRecipe recipe_;
  std::optional<RopeTable> rope_table_;
  std::uint64_t opaque_offset_ = 0;
};

/// The header may list more tokens than there are cells, never fewer.
void StateSource::set_tokens(std::vector<std::int32_t> tokens, std::uint64_t count) {
  header_.token_count = count;
  SegmentRecord segment;
  segment.token_count = count;
  header_.segments = {segment};
  if (tokens.size() < count || tokens.empty()) {
    header_.flags |= kHeaderTokensUnknown;
    return;
  }
  tokens.resize(count);
  token_ids_ = std::move(tokens);
}

void StateSource::make_opaque(const StateFile& state, bool ordered) {
  set_tokens(state.token_ids, state.token_ids.size());
  positions_.resize(header_.token_count);
  for (std::size_t i = 0; i < positions_.size(); ++i) positions_[i] = static_cast<std::int32_t>(i);
  header_.next_position = static_cast<std::int64_t>(positions_.size());
  header_.restorable = Restorable::kWholeOnly;
  if (!ordered) header_.flags |= kHeaderNotAPrefix;
  StreamRecord stream;
  stream.stream = static_cast<std::uint8_t>(StreamKind::kOpaque);
  stream.dtype = static_cast<std::uint8_t>(DType::kBytes);
  stream.opaque_size = state.file_size - state.payload_offset;
  header_.streams = {stream};
  opaque_offset_ = state.payload_offset;
  recipe_ = make_opaque_recipe(state);
}

Status StateSource::make_streams_of(const StateFile& state, const ModelFacts& model, TokenOrders orders) {
  auto streams = make_streams(state, model, orders);
  if (!streams) return streams.error();
  std::vector<std::vector<std::uint32_t>> layers;
  for (std::size_t i = 0; i < state.caches.size(); ++i) {
    layers.push_back(layers_of_cache(model, i));
    cell_counts_.push_back(state.caches[i].cell_count);
  }
  recipe_ = make_recipe(state, orders, layers);
  header_.streams = std::move(streams->streams);
  header_.parts = std::move(streams->parts);
  places_ = std::move(streams->places);
  set_tokens(state.token_ids, orders.positions.size());
  if (orders.not_a_prefix) header_.flags |= kHeaderNotAPrefix;
  header_.next_position = state.caches[0].max_position + 1;
  // A window layer attends to positions above p - window. To go on at k, llama.cpp must find cells
  // from k - window + 1 on. source: llama-hparams.h is_masked_swa, LLAMA_SWA_TYPE_STANDARD
  const std::uint64_t first_held = orders.caches.size() > 1 ? orders.caches[1].first_token : 0;
  if (first_held > 0) {
    header_.restorable = Restorable::kFromCount;
    const std::uint64_t window = std::max<std::uint64_t>(model.sliding_window, 1);
    header_.restorable_from = std::min(first_held + window - 1, header_.token_count);
  }
  positions_ = std::move(orders.positions);
  orders_ = std::move(orders.caches);
  if (model.rope_pairing != RopePairing::kNone) rope_table_ = model.rope_table;
  return {};
}

Status StateSource::read_rows(std::size_t stream_index, std::uint64_t first_token, std::uint64_t token_count,
                              std::span<std::byte> out) const {
  if (stream_index >= places_.size()) {
    return Error{ErrorCode::kInvalidArgument, kNoOffset, "stream", "the source has no such stream"};
  }
  const StreamPlace& place = places_[stream_index];
  const TokenOrder& order = orders_[place.cache];
  const bool inside = first_token >= order.first_token && token_count <= order.token_count &&
                      first_token - order.first_token <= order.token_count - token_count;
  if (!inside || out.size() != token_count * place.tensor.row_bytes) {
    return Error{ErrorCode::kInvalidArgument, kNoOffset, "first_token", "rows outside what the stream holds"};
  }
  const RowRange rows{first_token - order.first_token, token_count};
  if (!place.transposed) return read_cell_rows(source_, place.tensor, order, rows, out);
  return read_channel_rows(source_, place.tensor, order, cell_counts_[place.cache], rows, out);
}

Status StateSource::read_opaque(std::size_t stream_index, std::uint64_t offset,
                                std::span<std::byte> out) const {
  const std::uint64_t size =
      stream_index < header_.streams.size() ? header_.streams[stream_index].opaque_size : 0;
  if (out.size() > size || offset > size - out.size()) {
    return Error{ErrorCode::kInvalidArgument, kNoOffset, "offset", "outside the opaque stream"};
  }
  return source_.read_at(opaque_offset_ + offset, out);
}

Status StateSource::read_literals(std::uint64_t offset, std::span<std::byte> out) const {
  if (out.size() > recipe_.layout.record.literal_size ||
      offset > recipe_.layout.record.literal_size - out.size()) {
    return Error{ErrorCode::kInvalidArgument, kNoOffset, "offset", "outside the literal bytes"};
  }
  auto range =
      std::upper_bound(recipe_.literals.begin(), recipe_.literals.end(), offset,
                       [](std::uint64_t value, const LiteralRange& r) { return value < r.literal_offset; });
  if (range != recipe_.literals.begin()) --range;
  while (!out.empty()) {
    const std::uint64_t skip = offset - range->literal_offset;
    const auto count = static_cast<std::size_t>(std::min<std::uint64_t>(range->size - skip, out.size()));
    auto status = source_.read_at(range->file_offset + skip, out.first(count));
    if (!status) return status;
    out = out.subspan(count);
    offset += count;
    ++range;
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<CacheSource>> state_source(const ByteSource& source, StateFile state,
                                                  const ModelFacts& model) {
  auto result = std::make_unique<StateSource>(source, model);
  if (state.opaque) {
    result->make_opaque(state, true);
    return std::unique_ptr<CacheSource>(std::move(result));
  }
  if (state.caches.empty() || state.caches[0].cell_count == 0) {
    return foreign_error(state.payload_offset, "cell_count",
                         "the state is empty: no token was decoded before it was saved");
  }
  if (!state.rotation_known) {
    return foreign_error(state.caches[0].offset, "rotated",
                         "a quantised state of layout 10/3 does not say whether it is "
                         "Hadamard-rotated (llama.cpp does it by default since April 2026): "
                         "say it with --rotated yes or --rotated no");
  }
  TokenOrders orders = order_tokens(state);
  if (stays_opaque(state, orders)) {
    result->make_opaque(state, false);
    return std::unique_ptr<CacheSource>(std::move(result));
  }
  auto status = result->make_streams_of(state, model, std::move(orders));
  if (!status) return status.error();
  return std::unique_ptr<CacheSource>(std::move(result));
}

std::vector<std::string> state_notes(const StateFile& state, const ModelFacts& model) {
  std::vector<std::string> notes;
  if (state.opaque) {
    notes.push_back("the memory of architecture '" + model.architecture +
                    "' is kept as opaque state: only the whole card can be restored");
    if (state.token_ids.empty()) notes.emplace_back("the state lists no token ids");
    return notes;
  }
  if (state.caches.empty() || state.caches[0].cell_count == 0) return notes;
  const TokenOrders orders = order_tokens(state);
  if (!orders.unordered.empty()) {
    notes.push_back(orders.unordered + ": the state is kept as opaque state and never injected");
    return notes;
  }
  const std::uint64_t cells = state.caches[0].cell_count;
  if (state.token_ids.size() < cells) {
    notes.push_back("the header lists " + std::to_string(state.token_ids.size()) + " token ids for " +
                    std::to_string(cells) + " cells: the card's tokens are unknown");
  } else if (state.token_ids.size() > cells) {
    notes.push_back("the header lists " + std::to_string(state.token_ids.size()) + " token ids for " +
                    std::to_string(cells) + " cells: the card has the first " + std::to_string(cells));
  }
  if (orders.not_a_prefix) {
    notes.emplace_back("positions are not 0, 1, 2, ...: the card is not a prefix");
  }
  return notes;
}

}  // namespace cachecard::llama_cpp
