// The live injector against libllama's own way back, in one process and in turn:
//   live_restore MODEL CARD RUNS   one JSON line, medians in milliseconds
// own: llama_state_seq_set_data of the state in memory. card: open (mapped), match, verify, decode, set;
// kept: the same in memory that an injection before left. All then decode the card's last token. The file is
// in the page cache; the sequence is emptied between runs.
#include <llama.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <thread>
#include <vector>

#include "llama_live/live_inject.hpp"
#include "llama_live/live_sequence.hpp"

using namespace cachecard;
using namespace cachecard::llama_live;

namespace {

[[noreturn]] void fail(const Error& error) {
  std::fprintf(stderr, "live_restore: %s\n", error.message().c_str());
  std::exit(1);
}

template <class T>
T need(Result<T> result) {
  if (!result) fail(result.error());
  return *std::move(result);
}

void spread(void*, std::size_t count, void (*task)(void*, std::size_t), void* context) {
  std::vector<std::thread> threads;
  for (std::size_t i = 1; i < count; ++i) threads.emplace_back(task, context, i);
  task(context, 0);
  for (std::thread& thread : threads) thread.join();
}

double milliseconds_of(const std::function<void()>& action) {
  const auto start = std::chrono::steady_clock::now();
  action();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

/// libllama's workers spin on their cores for a while after a decode. Whoever is handed a card was idle before. Not longer: idle
/// cores wake up slowly, and a host takes unused pages back.
void rest() { std::this_thread::sleep_for(std::chrono::milliseconds(10)); }

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

void decode(llama_context* context, llama_token token) {
  if (llama_decode(context, llama_batch_get_one(&token, 1)) != 0)
    fail({ErrorCode::kInternal, kNoOffset, {}, "decode"});
  llama_synchronize(context);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: live_restore MODEL CARD RUNS\n");
    return 2;
  }
  llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
  llama_model* model = llama_model_load_from_file(argv[1], llama_model_default_params());
  llama_context_params params = llama_context_default_params();
  const auto first = need(map_file(argv[2]));
  const CardReader card = need(CardReader::open(*first));
  params.n_ctx = static_cast<std::uint32_t>(card.header().token_count) + 64;
  params.n_threads = params.n_threads_batch = 2;
  llama_context* context = model != nullptr ? llama_init_from_model(model, params) : nullptr;
  if (context == nullptr) fail({ErrorCode::kIo, kNoOffset, {}, "no context"});
  const LiveContext live{context, params, false};
  const llama_cpp::ModelFacts facts = need(live_facts(live, {argv[1], "none", ""}));
  const llama_token last = need(card.token_ids()).back();
  LiveInjectOptions options;
  options.token_count = card.header().token_count - 1;
  options.parallel = {spread, nullptr, 2};
  const LiveInjectReport report = need(inject(card, live, facts, 0, options));
  const StateBlob state = need(read_sequence(context, 0, ~std::uint64_t{0}));
  const auto empty = [&] { (void)llama_memory_seq_rm(llama_get_memory(context), 0, -1, -1); };
  std::vector<double> own;
  std::vector<double> through;
  std::vector<double> kept;
  StateBlob scratch;
  const auto by_card = [&](StateBlob* memory) {
    empty();
    rest();
    options.scratch = memory;
    return milliseconds_of([&] {
      const auto source = need(map_file(argv[2]));
      const CardReader opened = need(CardReader::open(*source));
      need(inject(opened, live, facts, 0, options));
      decode(context, last);
    });
  };
  for (int run = 0; run <= std::atoi(argv[3]); ++run) {
    empty();
    rest();
    const double by_libllama = milliseconds_of([&] {
      if (!set_sequence(context, 0, state.bytes())) fail({ErrorCode::kInternal, kNoOffset, {}, "set_data"});
      decode(context, last);
    });
    const double fresh = by_card(nullptr);
    const double again = by_card(&scratch);
    if (run == 0) continue;  // warms up
    own.push_back(by_libllama);
    through.push_back(fresh);
    kept.push_back(again);
  }
  std::printf(
      "{\"tokens\": %llu, \"state_bytes\": %llu, \"card_bytes\": %llu, \"own_ms\": %.2f, \"card_ms\": %.2f, "
      "\"kept_ms\": %.2f}\n",
      static_cast<unsigned long long>(report.token_count),
      static_cast<unsigned long long>(report.state_bytes), static_cast<unsigned long long>(first->size()),
      median(own), median(through), median(kept));
  llama_free(context);
  llama_model_free(model);
  return 0;
}
