// live_handoff MODEL.gguf TEXT: one llama.cpp context reads a text, a card carries it into another, whose
// cache is of another type, and both say which token comes next. Built where CACHECARD_WITH_LLAMA is on.
#include <llama.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "cachecard/reader.hpp"
#include "llama_live/live_capture.hpp"
#include "llama_live/live_inject.hpp"

namespace live = cachecard::llama_live;

namespace {

using Model = std::unique_ptr<llama_model, decltype(&llama_model_free)>;
using Context = std::unique_ptr<llama_context, decltype(&llama_free)>;

int fail(const char* what, const cachecard::Error& error) {
  std::fprintf(stderr, "live_handoff: %s: %s\n", what, error.message().c_str());
  return 1;
}

/// The params are kept: libllama does not tell them again, and a card must know them.
llama_context_params params_with(ggml_type cache_type) {
  llama_context_params params = llama_context_default_params();
  params.n_ctx = 512;
  params.type_k = params.type_v = cache_type;
  params.n_threads = params.n_threads_batch = 2;
  return params;
}

std::vector<llama_token> tokenize(const llama_vocab* vocab, const std::string& text) {
  std::vector<llama_token> tokens(text.size() + 8);
  const auto count = llama_tokenize(vocab, text.data(), static_cast<int32_t>(text.size()), tokens.data(),
                                    static_cast<int32_t>(tokens.size()), true, true);
  tokens.resize(static_cast<std::size_t>(std::max(count, 0)));
  return tokens;
}

bool decode(llama_context* context, std::vector<llama_token> tokens) {
  return llama_decode(context, llama_batch_get_one(tokens.data(), static_cast<int32_t>(tokens.size()))) == 0;
}

/// The token that the context holds to be likeliest, as text.
std::string next_token(llama_context* context, const llama_vocab* vocab) {
  const float* logits = llama_get_logits_ith(context, -1);
  const auto best = std::max_element(logits, logits + llama_vocab_n_tokens(vocab)) - logits;
  char piece[64];
  const auto size =
      llama_token_to_piece(vocab, static_cast<llama_token>(best), piece, sizeof(piece), 0, true);
  return {piece, static_cast<std::size_t>(std::max(size, 0))};
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: live_handoff MODEL.gguf TEXT\n");
    return 2;
  }
  llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
  const Model model(llama_model_load_from_file(argv[1], llama_model_default_params()), llama_model_free);
  if (!model)
    return fail("cannot load the model", {cachecard::ErrorCode::kIo, cachecard::kNoOffset, {}, argv[1]});
  const llama_vocab* vocab = llama_model_get_vocab(model.get());

  // A reads all of the text but its last token: logits are not part of a card, so the receiver needs one to
  // decode.
  const auto f16 = params_with(GGML_TYPE_F16);
  const Context a(llama_init_from_model(model.get(), f16), llama_free);
  std::vector<llama_token> tokens = tokenize(vocab, argv[2]);
  if (!a || tokens.size() < 2 || tokens.size() > 500) return 2;
  const llama_token last = tokens.back();
  tokens.pop_back();
  if (!decode(a.get(), tokens)) return 1;

  // Out of A: sequence 0 as a card, here in memory; any ByteSink will do.
  const live::LiveContext sender{a.get(), f16, false};
  const live::LiveModel runs{argv[1], "none", ""};
  auto facts = live::live_facts(sender, runs);
  if (!facts) return fail("model", facts.error());
  cachecard::MemorySink bytes;
  live::LiveCaptureOptions capturing;
  capturing.token_ids = tokens;
  if (auto made = live::capture(sender, *facts, 0, bytes, capturing); !made)
    return fail("capture", made.error());

  // Into B, whose cache is q8_0: values become ggml's blocks on the way.
  const auto q8_0 = params_with(GGML_TYPE_Q8_0);
  const Context b(llama_init_from_model(model.get(), q8_0), llama_free);
  if (!b) return 1;
  const live::LiveContext receiver{b.get(), q8_0, false};
  const cachecard::MemorySource source(bytes.bytes());
  auto card = cachecard::CardReader::open(source);
  if (!card) return fail("card", card.error());
  auto target = live::live_facts(receiver, runs);
  if (!target) return fail("model", target.error());
  auto report = live::inject(*card, receiver, *target, 0);
  if (!report) return fail("inject", report.error());
  for (const std::string& note : report->notes) std::printf("%s\n", note.c_str());

  // Both go on with the same token; B at the position behind the card, which libllama counts on from.
  if (!decode(a.get(), {last}) || !decode(b.get(), {last})) return 1;
  std::printf("%zu tokens in a card of %zu bytes\n", tokens.size(), bytes.bytes().size());
  std::printf("A: '%s'\nB: '%s'\n", next_token(a.get(), vocab).c_str(), next_token(b.get(), vocab).c_str());
  return 0;
}
