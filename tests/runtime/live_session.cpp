#include "live_session.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdlib>
#include <map>

namespace cachecard::llama_live::test {
namespace {

struct FreeModel {
  void operator()(llama_model* model) const { llama_model_free(model); }
};

llama_model* model_at(const std::string& path) {
  static std::map<std::string, std::unique_ptr<llama_model, FreeModel>> models;
  auto& model = models[path];
  if (!model) {
    llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
    model.reset(llama_model_load_from_file(path.c_str(), llama_model_default_params()));
  }
  INFO(path);
  REQUIRE(model);
  return model.get();
}

llama_context_params params_of(const SessionOptions& options) {
  llama_context_params params = llama_context_default_params();
  params.n_ctx = options.context;
  params.n_batch = params.n_ubatch = 256;
  params.n_seq_max = options.sequences;
  params.kv_unified = options.unified;
  params.type_k = options.type_k;
  params.type_v = options.type_v;
  params.flash_attn_type = options.flash ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
  params.rope_freq_base = options.rope_freq_base;
  params.n_threads = params.n_threads_batch = 1;
  return params;
}

double log_sum(const Logits& logits) {
  const double most = *std::max_element(logits.begin(), logits.end());
  double sum = 0.0;
  for (const float value : logits) sum += std::exp(static_cast<double>(value) - most);
  return most + std::log(sum);
}

}  // namespace

std::string model_path(const std::string& tiny) {
  const char* found = std::getenv(tiny.empty() ? "CACHECARD_MODEL" : "CACHECARD_TINY_MODELS");
  const std::string path = found == nullptr ? "" : found;
  return tiny.empty() ? path : path + "/" + tiny + ".gguf";
}

Session::Session(const SessionOptions& options) {
  live_.params = params_of(options);
  context_.reset(llama_init_from_model(model_at(options.model), live_.params));
  REQUIRE(context_);
  live_.context = context_.get();
  auto facts = live_facts(live_, {options.model, "none", ""});
  INFO((facts ? "" : facts.error().message()));
  REQUIRE(facts);
  facts_ = *std::move(facts);
}

Logits Session::decode(const Tokens& tokens, std::int64_t start, llama_seq_id sequence) {
  for (std::size_t done = 0; done < tokens.size();) {
    const std::size_t count = std::min<std::size_t>(tokens.size() - done, 256);
    llama_batch batch = llama_batch_init(static_cast<std::int32_t>(count), 0, 1);
    batch.n_tokens = static_cast<std::int32_t>(count);
    for (std::size_t i = 0; i < count; ++i) {
      batch.token[i] = tokens[done + i];
      batch.pos[i] = static_cast<llama_pos>(start + static_cast<std::int64_t>(done + i));
      batch.n_seq_id[i] = 1;
      batch.seq_id[i][0] = sequence;
      batch.logits[i] = static_cast<std::int8_t>(i + 1 == count ? 1 : 0);
    }
    const int result = llama_decode(context_.get(), batch);
    llama_batch_free(batch);
    REQUIRE(result == 0);
    done += count;
  }
  const llama_vocab* vocab = llama_model_get_vocab(llama_get_model(context_.get()));
  const float* logits = llama_get_logits_ith(context_.get(), -1);
  REQUIRE(logits != nullptr);
  return {logits, logits + llama_vocab_n_tokens(vocab)};
}

Bytes Session::state(llama_seq_id sequence) {
  Bytes bytes(llama_state_seq_get_size(context_.get(), sequence));
  auto* out = reinterpret_cast<std::uint8_t*>(bytes.data());
  REQUIRE(llama_state_seq_get_data(context_.get(), out, bytes.size(), sequence) == bytes.size());
  return bytes;
}

Tokens Session::tokenize(const std::string& text) const {
  const llama_vocab* vocab = llama_model_get_vocab(llama_get_model(context_.get()));
  Tokens tokens(text.size() + 8);
  const auto count = llama_tokenize(vocab, text.data(), static_cast<std::int32_t>(text.size()), tokens.data(),
                                    static_cast<std::int32_t>(tokens.size()), true, true);
  REQUIRE(count > 0);
  tokens.resize(static_cast<std::size_t>(count));
  return tokens;
}

void LiveCard::open() {
  source = MemorySource(sink.bytes());
  auto card = CardReader::open(source);
  INFO((card ? "" : card.error().message()));
  REQUIRE(card);
  reader.clear();
  reader.push_back(*std::move(card));
}

std::unique_ptr<LiveCard> captured(Session& session, const Tokens& tokens, llama_seq_id sequence) {
  auto card = std::make_unique<LiveCard>();
  LiveCaptureOptions options;
  options.token_ids = tokens;
  const auto written = capture(session.live(), session.facts(), sequence, card->sink, options);
  INFO((written ? "" : written.error().message()));
  REQUIRE(written);
  card->open();
  return card;
}

LiveInjectReport injected(const CardReader& card, Session& session, const LiveInjectOptions& options,
                          llama_seq_id sequence) {
  auto report = inject(card, session.live(), session.facts(), sequence, options);
  INFO((report ? "" : report.error().message()));
  REQUIRE(report);
  return *std::move(report);
}

Tokens story(const Session& session, std::size_t count) {
  std::string text;
  for (int day = 1; day < 40; ++day) {
    text += "On day " + std::to_string(day * 7) + " of the journey the keeper counted " +
            std::to_string(day * day) +
            " ships, wrote down the wind, the tide and the colour of the sky, and lit the lamps again. ";
  }
  Tokens tokens = session.tokenize(text);
  REQUIRE(tokens.size() >= count);
  tokens.resize(count);
  return tokens;
}

double divergence(const Logits& exact, const Logits& found) {
  const double p_sum = log_sum(exact);
  const double q_sum = log_sum(found);
  double total = 0.0;
  for (std::size_t i = 0; i < exact.size(); ++i) {
    const double p = static_cast<double>(exact[i]) - p_sum;
    total += std::exp(p) * (p - (static_cast<double>(found[i]) - q_sum));
  }
  return total;
}

llama_token likeliest(const Logits& logits) {
  return static_cast<llama_token>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

}  // namespace cachecard::llama_live::test
