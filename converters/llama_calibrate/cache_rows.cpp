#include "cache_rows.hpp"

#include <ggml.h>

#include <cstring>

#include "llama_cpp/cache_block.hpp"
#include "llama_cpp/state_source.hpp"

namespace cachecard::llama_calibrate {
namespace {

using llama_cpp::ModelFacts;

Error refused(const ModelFacts& facts, const std::string& cause) {
  return {ErrorCode::kUnsupportedFeature, kNoOffset, {}, "architecture '" + facts.architecture + "' " + cause};
}

std::span<const float> turn_at(std::span<const float> turns, const HeadOrder& order, std::size_t position) {
  const std::size_t width = 2 * order.inverse_frequencies.size();
  return turns.subspan(position * width, width);
}

/// Where each stream lies, in the order of the header's streams.
Result<std::vector<StateStream>> placed(const llama_cpp::StateFile& file, const ModelFacts& facts, const CardHeader& header,
                                        const RopeTable* table) {
  std::vector<StateStream> streams;
  for (const StreamRecord& record : header.streams) {
    const bool rotated = record.rope_state == static_cast<std::uint8_t>(RopeState::kPostRope);
    streams.push_back({record, head_order(record.kv_head_count, record.head_dim, rotated ? table : nullptr), 0, 0});
  }
  for (std::size_t c = 0; c < file.caches.size(); ++c) {
    const llama_cpp::CacheBlock& cache = file.caches[c];
    bool in_order = cache.cell_count == header.token_count && !cache.v_trans;
    for (std::size_t i = 0; i < cache.positions.size(); ++i) in_order &= cache.positions[i] == static_cast<std::int32_t>(i);
    if (!in_order) return refused(facts, "does not keep all tokens of a text in order");
    const auto layers = llama_cpp::layers_of_cache(facts, c);
    for (std::size_t i = 0; i < layers.size(); ++i) {
      for (const bool key : {true, false}) {
        const auto& block = key ? cache.keys[i] : cache.values[i];
        const auto index = header.stream_index(layers[i], key ? StreamKind::kKey : StreamKind::kValue);
        if (!index || block.dtype != DType::kF16) return refused(facts, "keeps other than f16 keys and values");
        streams[*index].offset = block.data_offset;
        streams[*index].row_bytes = block.row_bytes;
      }
    }
  }
  return streams;
}

}  // namespace

Status check_model(const ModelFacts& facts) {
  if (facts.key_only) return refused(facts, "keeps latents (MLA), not keys and values: it cannot be calibrated");
  if (facts.module == ModelFacts::Module::kOther) {
    return refused(facts, "keeps more than keys and values (recurrent or hybrid), or is not known: it cannot be calibrated");
  }
  if (facts.cell_ext) return refused(facts, "has rotary embedding of several axes (M-RoPE): it cannot be calibrated");
  bool rotates = false;
  for (const std::uint8_t layer : facts.layer_has_rope) rotates |= layer != 0;
  if (rotates && !facts.rope_table) {
    return refused(facts, "has rotary frequencies that its GGUF does not fix (or several sets): it cannot be calibrated");
  }
  return {};
}

Result<SequenceState> read_state(llama_context* context, llama_seq_id sequence, const ModelFacts& facts) {
  auto blob = llama_live::read_sequence(context, sequence, ~std::uint64_t{0});
  if (!blob) return blob.error();
  SequenceState state;
  state.blob = std::move(*blob);
  const MemorySource bytes(std::as_const(state.blob).bytes());
  llama_cpp::ParseOptions parsing;
  parsing.layout = llama_live::kLiveLayout;
  parsing.rotated = false;
  auto file = llama_cpp::parse_state(bytes, &facts, parsing);
  if (!file) return file.error();
  const llama_cpp::StateFile kept = *file;
  auto source = llama_cpp::state_source(bytes, *std::move(file), facts);
  if (!source) return source.error();
  state.header = (*source)->header();
  state.token_count = state.header.token_count;
  auto streams = placed(kept, facts, state.header, (*source)->rope_table());
  if (!streams) return streams.error();
  state.streams = std::move(*streams);
  return state;
}

Rows card_rows(const SequenceState& state, const StateStream& stream, std::span<const float> turns) {
  Rows rows(static_cast<Eigen::Index>(state.token_count), static_cast<Eigen::Index>(stream.order.width()));
  std::vector<ggml_fp16_t> halves(stream.order.width());
  std::vector<float> row(halves.size());
  for (std::size_t t = 0; t < state.token_count; ++t) {
    std::memcpy(halves.data(), state.blob.bytes().data() + stream.offset + t * stream.row_bytes, stream.row_bytes);
    ggml_fp16_to_fp32_row(halves.data(), row.data(), static_cast<std::int64_t>(row.size()));
    to_card_order(stream.order, row, turn_at(turns, stream.order, t), {rows.row(static_cast<Eigen::Index>(t)).data(), row.size()});
  }
  return rows;
}

void put_head(const StateStream& stream, std::uint32_t head, const Rows& rows, std::span<const float> turns,
              std::span<std::byte> state) {
  HeadOrder one = stream.order;
  one.head_count = 1;
  std::vector<float> row(one.head_dim);
  std::vector<ggml_fp16_t> halves(one.head_dim);
  const std::size_t size = halves.size() * sizeof(ggml_fp16_t);
  for (Eigen::Index t = 0; t < rows.rows(); ++t) {
    const auto token = static_cast<std::size_t>(t);
    from_card_order(one, {rows.row(t).data(), row.size()}, turn_at(turns, one, token), row);
    ggml_fp32_to_fp16_row(row.data(), halves.data(), static_cast<std::int64_t>(row.size()));
    std::memcpy(state.data() + stream.offset + token * stream.row_bytes + head * size, halves.data(), size);
  }
}

}  // namespace cachecard::llama_calibrate
