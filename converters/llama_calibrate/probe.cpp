#include "probe.hpp"

#include <algorithm>
#include <cmath>

#include "attention_sums.hpp"
#include "llama_live/live_inject.hpp"
#include "loaded_model.hpp"

namespace cachecard::llama_calibrate {
namespace {

constexpr std::uint64_t kSinkTokens = 4;  ///< as WeighOptions has it
constexpr std::size_t kMostTokens = 8192;
constexpr std::uint32_t kBatchTokens = 128;

Error error_of(ErrorCode code, std::string detail) { return {code, kNoOffset, {}, std::move(detail)}; }

class Prober {
 public:
  Prober(const CardReader& card, const std::vector<ProbeText>& texts, const ProbeOptions& options)
      : card_(card), texts_(texts), options_(options), ticker_{options.progress, 0, 0} {}

  Result<std::vector<ProbedText>> run();

 private:
  Status tokenize_texts();
  Status open_context();
  Status put_card_in();
  Status decode(const Tokens& tokens);
  Result<TokenWeights> weights() const;

  const CardReader& card_;
  const std::vector<ProbeText>& texts_;
  const ProbeOptions& options_;
  Ticker ticker_;
  QuietLog log_;
  AttentionSums sums_;
  ModelPtr model_;
  llama_live::LiveContext live_;
  ContextPtr context_;
  std::vector<Tokens> tokens_;
  llama_pos next_ = 0;
};

Status Prober::tokenize_texts() {
  for (const ProbeText& text : texts_) {
    tokens_.push_back(tokenize(model_.get(), text.text, {.begins = false, .special = true}));
    const std::size_t count = tokens_.back().size();
    if (count == 0 || count > kMostTokens) {
      return error_of(ErrorCode::kInvalidArgument, text.name + ": found " + std::to_string(count) +
                                                       " tokens, allowed 1 to " +
                                                       std::to_string(kMostTokens));
    }
    ticker_.total += count;
  }
  return {};
}

Status Prober::open_context() {
  std::size_t longest = 0;
  for (const Tokens& tokens : tokens_) longest = std::max(longest, tokens.size());
  ContextShape shape;
  shape.token_count = static_cast<std::uint32_t>(card_.header().token_count + longest);
  shape.batch_count = kBatchTokens;
  shape.threads = options_.threads;
  live_.params = context_params(shape, &AttentionSums::on_node, &sums_);
  auto context = make_context(model_.get(), live_.params, ticker_);
  if (!context) return context.error();
  context_ = std::move(*context);
  live_.context = context_.get();
  return {};
}

Status Prober::put_card_in() {
  auto facts = llama_live::live_facts(live_, {options_.model_path, "none", options_.digest_folder});
  if (!facts) return facts.error();
  llama_live::LiveInjectOptions inject;
  inject.parallel = options_.parallel;
  inject.allow = {"adapters-unknown", "weights-quantization", "weights-container",
                  "weights-unknown"};  // what it looks at is the same
  auto report = llama_live::inject(card_, live_, *facts, 0, inject);
  if (!report) return report.error();
  next_ = static_cast<llama_pos>(report->next_position);
  return {};
}

Status Prober::decode(const Tokens& tokens) {
  sums_.clear();
  Batch batch(kBatchTokens);
  for (std::size_t at = 0; at < tokens.size(); at += kBatchTokens) {
    batch.clear();
    for (std::size_t i = at; i < std::min<std::size_t>(tokens.size(), at + kBatchTokens); ++i) {
      batch.add(tokens[i], next_ + static_cast<llama_pos>(i), 0, false);
    }
    if (Status s = batch.decode(context_.get(), ticker_); !s) return s;
  }
  if (llama_memory_seq_rm(llama_get_memory(context_.get()), 0, next_, -1)) return {};
  return error_of(ErrorCode::kUnsupportedFeature,
                  "libllama does not take the probe's tokens out of the context again");
}

/// A fresh context has the card's tokens in its first cells, in order.
Result<TokenWeights> Prober::weights() const {
  const CardHeader& header = card_.header();
  TokenWeights weights{weight_rows(header), header.token_count, {}};
  weights.values.assign(weights.row_count * weights.token_count, 0.0f);
  const auto row_of_use = weight_row_of_use(header);
  bool any = false;
  for (std::size_t s = 0; s < header.streams.size(); ++s) {
    const StreamRecord& stream = header.streams[s];
    const AttentionSums::Layer* seen =
        stream.stream == static_cast<std::uint8_t>(StreamKind::kKey) ? sums_.find(stream.layer) : nullptr;
    if (seen == nullptr || !seen->plain || seen->kv_head_count != stream.kv_head_count ||
        seen->cell_count < stream.token_count)
      continue;
    any = true;
    const std::uint64_t sinks = std::min(kSinkTokens, stream.token_count);
    for (std::uint32_t h = 0; h < stream.kv_head_count; ++h) {
      const double* squares = seen->squares.data() + h * seen->cell_count;
      double sum = 0.0;
      for (std::uint64_t t = sinks; t < stream.token_count; ++t) sum += squares[t];
      const double mean = sum / static_cast<double>(std::max<std::uint64_t>(1, stream.token_count - sinks));
      float* out = weights.values.data() +
                   row_of_use[BitWidthMap::first_use(header, s) + h] * header.token_count +
                   stream.first_token;
      for (std::uint64_t t = 0; t < stream.token_count; ++t)
        out[t] = static_cast<float>(std::sqrt(t < sinks ? mean : squares[t]));
    }
  }
  if (any) return weights;
  return error_of(ErrorCode::kUnsupportedFeature,
                  "libllama computes this model's attention in a way that is not known: it cannot be probed");
}

Result<std::vector<ProbedText>> Prober::run() {
  auto model = load_model(options_.model_path, {}, options_.threads, log_);
  if (!model) return model.error();
  model_ = std::move(*model);
  if (Status s = tokenize_texts(); !s) return s.error();
  if (Status s = open_context(); !s) return s.error();
  if (Status s = put_card_in(); !s) return s.error();
  std::vector<ProbedText> probed;
  for (const Tokens& tokens : tokens_) {
    if (Status s = decode(tokens); !s) return s.error();
    auto found = weights();
    if (!found) return found.error();
    probed.push_back({std::move(*found), tokens.size()});
  }
  return probed;
}

}  // namespace

Result<std::vector<ProbedText>> probe(const CardReader& card, const std::vector<ProbeText>& texts,
                                      const ProbeOptions& options) {
  return Prober(card, texts, options).run();
}

}  // namespace cachecard::llama_calibrate
