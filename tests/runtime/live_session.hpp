#pragma once

#include <memory>
#include <string>
#include <vector>

#include "cachecard/reader.hpp"
#include "llama_live/live_capture.hpp"
#include "llama_live/live_inject.hpp"

/// Real models and contexts for the live tests. Models are loaded once a process.
namespace cachecard::llama_live::test {

using Tokens = std::vector<llama_token>;
using Bytes = std::vector<std::byte>;
using Logits = std::vector<float>;

/// CACHECARD_MODEL, or a tiny model of CACHECARD_TINY_MODELS by name.
std::string model_path(const std::string& tiny = {});

struct SessionOptions {
  std::string model = model_path();
  std::uint32_t context = 512;
  std::uint32_t sequences = 1;
  bool unified = true;
  ggml_type type_k = GGML_TYPE_F16;
  ggml_type type_v = GGML_TYPE_F16;
  bool flash = true;
  float rope_freq_base = 0.0f;
};

class Session {
 public:
  explicit Session(const SessionOptions& options = {});

  /// Logits of the last token.
  Logits decode(const Tokens& tokens, std::int64_t start = 0, llama_seq_id sequence = 0);
  /// As libllama saves it: the strictest way to say that it did not change.
  Bytes state(llama_seq_id sequence = 0);
  Tokens tokenize(const std::string& text) const;

  const LiveContext& live() const { return live_; }
  /// Facts with the session's own model file and adapters "none".
  const llama_cpp::ModelFacts& facts() const { return facts_; }

 private:
  struct FreeContext {
    void operator()(llama_context* context) const { llama_free(context); }
  };
  std::unique_ptr<llama_context, FreeContext> context_;
  LiveContext live_;
  llama_cpp::ModelFacts facts_;
};

/// A card in memory and its reader.
struct LiveCard {
  MemorySink sink;
  MemorySource source{{}};
  std::vector<CardReader> reader;  ///< one; a vector, because readers have no empty state

  const CardReader& operator*() const { return reader.front(); }
  void open();
};

/// Fails the test where it cannot.
std::unique_ptr<LiveCard> captured(Session& session, const Tokens& tokens, llama_seq_id sequence = 0);
/// Fails the test where it cannot.
LiveInjectReport injected(const CardReader& card, Session& session, const LiveInjectOptions& options = {},
                          llama_seq_id sequence = 0);

/// `count` tokens of a fixed text.
Tokens story(const Session& session, std::size_t count);

/// Nats between two next-token distributions.
double divergence(const Logits& exact, const Logits& found);
llama_token likeliest(const Logits& logits);

}  // namespace cachecard::llama_live::test
