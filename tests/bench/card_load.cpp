// A card into libtorch's tensors, as often as asked: the peer of load_bench.py.
//   card_load MODEL CARD THREADS   for each line read: one load, its milliseconds by the clock and of CPU time as a line
// Like cachecard.hf.load: the model's identity is read and compared, every section digested, every value looked at, keys in
// halves, f16. The model's digest is cached, the card in the page cache.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

#include "cachecard/match.hpp"
#include "llama_cpp/gguf_model.hpp"
#include "torch/torch_cache.hpp"

using namespace cachecard;

namespace {

template <class T>
T need(Result<T> result) {
  if (result) return *std::move(result);
  std::fprintf(stderr, "card_load: %s\n", result.error().message().c_str());
  std::exit(1);
}

void spread(void* width, std::size_t count, void (*task)(void*, std::size_t), void* context) {
  const std::size_t step = *static_cast<std::size_t*>(width);
  const auto some = [&](std::size_t first) {
    for (std::size_t i = first; i < count; i += step) task(context, i);
  };
  std::vector<std::thread> threads;
  for (std::size_t i = 1; i < std::min(step, count); ++i) threads.emplace_back(some, i);
  some(0);
  for (std::thread& thread : threads) thread.join();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: card_load MODEL CARD THREADS\n");
    return 2;
  }
  std::size_t width = std::strtoul(argv[3], nullptr, 10);
  llama_cpp::ModelOptions model;
  if (const char* cache = std::getenv("XDG_CACHE_HOME")) model.cache_folder = std::string(cache) + "/cachecard";
  pytorch::TensorOptions options;
  options.dtype = at::kHalf;
  options.parallel = {spread, &width, width};
  options.finite = true;
  for (std::string line; std::getline(std::cin, line);) {
    const auto start = std::chrono::steady_clock::now();
    const std::clock_t cpu = std::clock();
    auto facts = need(llama_cpp::read_model(argv[1], model));
    facts.identity.set_text(IdentityField::kAdapters, "none");
    const auto source = need(open_file(argv[2]));
    const CardReader card = need(CardReader::open(*source));
    const MatchReport match = need(match_identity(card.header().identity, facts.identity, {}));
    if (!match.accepted) need(Result<int>(match.error));
    if (Status s = card.check_other_sections(card.header().token_count); !s) need(Result<int>(s.error()));
    const auto layers = need(pytorch::read_tensors(card, options));
    const double took = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
    std::printf("%.3f %.3f %zu\n", took, 1e3 * static_cast<double>(std::clock() - cpu) / CLOCKS_PER_SEC, layers.size());
    std::fflush(stdout);
  }
  return 0;
}
