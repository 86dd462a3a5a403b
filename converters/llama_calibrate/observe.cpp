#include "observe.hpp"

#include <ggml-backend.h>
#include <ggml.h>

#include <cstring>

#include "attention_sums.hpp"

namespace cachecard::llama_calibrate {
namespace {

/// Elements that a strided f32 tensor spans, gaps and all.
std::vector<float> bytes_of(const ggml_tensor* tensor) {
  std::vector<float> out((ggml_nbytes(tensor) + sizeof(float) - 1) / sizeof(float));
  ggml_backend_tensor_get(tensor, out.data(), 0, ggml_nbytes(tensor));
  return out;
}

Error unseen(const llama_cpp::ModelFacts& facts, std::uint32_t layer, const std::string& cause) {
  return {ErrorCode::kUnsupportedFeature, kNoOffset, {},
          "architecture '" + facts.architecture + "', layer " + std::to_string(layer) + ": " + cause + ": it cannot be calibrated"};
}

Rows query_rows(const std::vector<float>& rows, const HeadOrder& order, std::span<const float> turns) {
  const std::size_t width = order.width();
  const std::size_t turn = 2 * order.inverse_frequencies.size();
  Rows out(static_cast<Eigen::Index>(rows.size() / width), static_cast<Eigen::Index>(width));
  for (std::size_t t = 0; t < rows.size() / width; ++t) {
    to_card_order(order, std::span(rows).subspan(t * width, width), turns.subspan(t * turn, turn),
                  {out.row(static_cast<Eigen::Index>(t)).data(), width});
  }
  return out;
}

}  // namespace

Result<std::unique_ptr<Observer>> Observer::create(llama_model* model, const llama_cpp::ModelFacts& facts,
                                                   std::uint32_t most_tokens, std::uint32_t threads, Ticker& ticker) {
  std::unique_ptr<Observer> observer(new Observer(facts, ticker));
  observer->seen_.resize(facts.layer_count);
  ContextShape shape;
  shape.token_count = most_tokens;
  shape.threads = threads;
  auto context = make_context(model, shape, ticker, &Observer::on_node, observer.get());
  if (!context) return context.error();
  observer->context_ = std::move(*context);
  return observer;
}

/// Attention itself is asked for: its first source are the queries as they are read, whatever the architecture calls them and
/// does to them before. It does not work in place, so that they are still there once it was computed.
bool Observer::on_node(ggml_tensor* node, bool asked, void* self) {
  if (node->op != GGML_OP_FLASH_ATTN_EXT) return !asked;
  if (!asked) static_cast<Observer*>(self)->take(node);
  return true;
}

void Observer::take(const ggml_tensor* attention) {
  const ggml_tensor* queries = attention->src[0];  // [head_dim][token][head]
  const auto layer = layer_of_keys(attention->src[1]);
  if (!layer || *layer >= seen_.size() || queries->type != GGML_TYPE_F32 || queries->ne[3] != 1) return;
  float scale_bias_cap[3];
  std::memcpy(scale_bias_cap, attention->op_params, sizeof scale_bias_cap);
  Seen& seen = seen_[*layer];
  seen.head_dim = static_cast<std::uint32_t>(queries->ne[0]);
  seen.head_count = static_cast<std::uint32_t>(queries->ne[2]);
  seen.scale = scale_bias_cap[0];
  seen.plain = scale_bias_cap[1] == 0.0f && scale_bias_cap[2] == 0.0f && attention->src[4] == nullptr;
  const std::vector<float> values = bytes_of(queries);
  for (std::int64_t t = 0; t < queries->ne[1]; ++t) {
    for (std::int64_t h = 0; h < queries->ne[2]; ++h) {
      const std::size_t at = (static_cast<std::size_t>(t) * queries->nb[1] + static_cast<std::size_t>(h) * queries->nb[2]) / 4;
      seen.rows.insert(seen.rows.end(), values.begin() + static_cast<std::ptrdiff_t>(at),
                       values.begin() + static_cast<std::ptrdiff_t>(at + seen.head_dim));
    }
  }
}

Result<Observed> Observer::observe(std::span<const llama_token> tokens, std::uint32_t first_layer, std::uint32_t end_layer) {
  for (Seen& seen : seen_) seen.rows.clear();
  llama_memory_clear(llama_get_memory(context_.get()), true);
  if (Status s = decode_text(context_.get(), tokens, 0, ticker_); !s) return s.error();
  auto state = read_state(context_.get(), 0, facts_);
  if (!state) return state.error();
  Observed observed;
  observed.header = state->header;
  std::vector<float> turns;
  for (std::size_t i = 0; i + 1 < state->streams.size(); i += 2) {
    const StateStream& key = state->streams[i];
    const std::uint32_t layer = key.record.layer;
    if (layer < first_layer || layer >= end_layer) continue;
    const Seen& seen = seen_[layer];
    if (seen.rows.size() != tokens.size() * seen.head_count * seen.head_dim || seen.head_dim != key.order.head_dim) {
      return unseen(facts_, layer, "libllama computes its attention in a way that is not known");
    }
    if (!seen.plain) return unseen(facts_, layer, "its attention is more than scaled products (sinks, ALiBi or a cap)");
    if (turns.empty()) turns = turns_of(key.order, tokens.size());
    const std::span<const float> turned = key.order.inverse_frequencies.empty() ? std::span<const float>() : std::span<const float>(turns);
    HeadOrder order = key.order;
    order.head_count = seen.head_count;
    observed.layers.push_back({layer, seen.head_count, seen.scale, key.record, state->streams[i + 1].record,
                               static_cast<std::uint32_t>(order.inverse_frequencies.size()), card_rows(*state, key, turned),
                               card_rows(*state, state->streams[i + 1], {}), query_rows(seen.rows, order, turned)});
  }
  return observed;
}

}  // namespace cachecard::llama_calibrate
