#include "cost_meter.hpp"

#include <algorithm>
#include <cstring>

#include "disturbance.hpp"

namespace cachecard::llama_calibrate {
namespace {

/// Disturbed at once, a sequence each: eight make a batch of 64 scored tokens twice as fast a token as one.
constexpr std::size_t kSequences = 8;

template <class Task>
void in_parallel(const ParallelFor& parallel, std::size_t count, Task& task) {
  parallel(count, [](void* context, std::size_t index) { (*static_cast<Task*>(context))(index); }, &task);
}

}  // namespace

Result<CostMeter> CostMeter::create(llama_model* model, const llama_cpp::ModelFacts& facts, const Options& options, Ticker& ticker) {
  CostMeter meter(facts, options, ticker);
  ContextShape shape;
  shape.token_count = options.context + options.scored;
  shape.sequence_count = kSequences;
  shape.batch_count = static_cast<std::uint32_t>(kSequences * options.scored);
  shape.threads = options.threads;
  auto context = make_context(model, shape, ticker);
  if (!context) return context.error();
  meter.context_ = std::move(*context);
  meter.vocabulary_ = static_cast<std::size_t>(llama_vocab_n_tokens(llama_model_get_vocab(model)));
  return meter;
}

std::uint64_t CostMeter::work(std::size_t token_count, std::size_t scored, std::size_t head_count) {
  const std::size_t groups = 1 + (head_count + kSequences - 1) / kSequences;
  return token_count - scored + groups * kSequences * scored;
}

Status CostMeter::put_back(llama_seq_id sequence, std::span<const std::byte> state) {
  (void)llama_memory_seq_rm(llama_get_memory(context_.get()), sequence, -1, -1);
  if (llama_live::set_sequence(context_.get(), sequence, state)) return {};
  return Error{ErrorCode::kInternal, kNoOffset, {}, "libllama does not take its own state back"};
}

Status CostMeter::disturb(const Head& head, std::span<const ProfileLayer> layers, llama_seq_id sequence) {
  const auto found = std::find_if(exact_.streams.begin(), exact_.streams.end(), [&](const StateStream& s) {
    return s.record.layer == head.layer && s.is_key() == head.key;
  });
  const auto layer = std::find_if(layers.begin(), layers.end(), [&](const ProfileLayer& l) { return l.record.layer == head.layer; });
  if (found == exact_.streams.end() || layer == layers.end()) return Error{ErrorCode::kInternal, kNoOffset, {}, "no such layer"};
  const std::span<const float> turns =
      found->order.inverse_frequencies.empty() ? std::span<const float>() : std::span<const float>(turns_);
  const Rows rows = card_rows(exact_, *found, turns);
  const std::size_t width = found->record.head_dim;
  const Rows rounded = head.key ? rounded_keys(rows, head.head, std::span(layer->key_steps).subspan(head.head * width, width), options_.step)
                                : rounded_values(rows, head.head, found->record.head_dim, options_.step);
  put_head(*found, head.head, rounded, turns, work_);
  Status status = put_back(sequence, work_);
  const std::size_t size = exact_.token_count * found->row_bytes;
  std::memcpy(work_.data() + found->offset, exact_.blob.bytes().data() + found->offset, size);
  return status;
}

/// Always the same shape of batch, so that equal caches give equal logits.
Status CostMeter::decode_scored(std::span<const llama_token> scored) {
  Batch batch(static_cast<std::uint32_t>(kSequences * scored.size()));
  for (std::size_t s = 0; s < kSequences; ++s) {
    for (std::size_t i = 0; i < scored.size(); ++i) {
      batch.add(scored[i], static_cast<llama_pos>(exact_.token_count + i), static_cast<llama_seq_id>(s), true);
    }
  }
  return batch.decode(context_.get(), ticker_);
}

std::span<const float> CostMeter::logits(std::size_t sequence, std::size_t token) const {
  const std::size_t index = sequence * options_.scored + token;
  return {llama_get_logits_ith(context_.get(), static_cast<std::int32_t>(index)), vocabulary_};
}

std::vector<double> CostMeter::divergences() const {
  const std::size_t scored = options_.scored;
  std::vector<std::span<const float>> rows;  // libllama's own look-up is not for several threads
  for (std::size_t i = 0; i < kSequences * scored; ++i) rows.push_back(logits(i / scored, i % scored));
  std::vector<double> nats(rows.size());
  auto task = [&](std::size_t i) { nats[i] = reference_.divergence(i % scored, rows[i]); };
  in_parallel(options_.parallel, nats.size(), task);
  std::vector<double> means(kSequences);
  for (std::size_t i = 0; i < nats.size(); ++i) means[i / scored] += nats[i] / static_cast<double>(scored);
  return means;
}

Result<Costs> CostMeter::measure(std::span<const llama_token> tokens, std::span<const Head> heads,
                                 std::span<const ProfileLayer> layers) {
  const std::span<const llama_token> scored = tokens.last(options_.scored);
  llama_memory_clear(llama_get_memory(context_.get()), true);
  if (Status s = decode_text(context_.get(), tokens.first(tokens.size() - scored.size()), 0, ticker_); !s) return s.error();
  auto state = read_state(context_.get(), 0, facts_);
  if (!state) return state.error();
  exact_ = std::move(*state);
  work_.assign(exact_.blob.bytes().begin(), exact_.blob.bytes().end());
  turns_.clear();
  for (const StateStream& stream : exact_.streams) {
    if (turns_.empty()) turns_ = turns_of(stream.order, exact_.token_count);
  }
  for (std::size_t s = 0; s < kSequences; ++s) {
    if (Status status = put_back(static_cast<llama_seq_id>(s), work_); !status) return status.error();
  }
  if (Status s = decode_scored(scored); !s) return s.error();
  reference_ = Distributions(vocabulary_);
  for (std::size_t i = 0; i < scored.size(); ++i) reference_.add(logits(0, i));
  Costs costs;
  costs.undisturbed = std::max(divergences().back(), 0.0);
  for (std::size_t at = 0; at < heads.size(); at += kSequences) {
    const std::size_t count = std::min(kSequences, heads.size() - at);
    for (std::size_t s = 0; s < kSequences; ++s) {
      const Head& head = heads[at + std::min(s, count - 1)];
      if (Status status = disturb(head, layers, static_cast<llama_seq_id>(s)); !status) return status.error();
    }
    if (Status status = decode_scored(scored); !status) return status.error();
    const auto nats = divergences();
    costs.divergence.insert(costs.divergence.end(), nats.begin(), nats.begin() + static_cast<std::ptrdiff_t>(count));
  }
  return costs;
}

}  // namespace cachecard::llama_calibrate
