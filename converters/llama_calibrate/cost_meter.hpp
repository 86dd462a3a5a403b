#pragma once

#include "cache_rows.hpp"
#include "cachecard/profile.hpp"
#include "divergence.hpp"
#include "loaded_model.hpp"

/// What errors of single heads cost the next token, by making them.
namespace cachecard::llama_calibrate {

/// One head's keys or values.
struct Head {
  std::uint32_t layer = 0;
  std::uint32_t head = 0;
  bool key = false;
};

struct Costs {
  std::vector<double> divergence;  ///< nats of KL by head, mean over scored tokens
  double undisturbed = 0.0;        ///< the same with the cache as it was
};

class CostMeter {
 public:
  struct Options {
    std::uint32_t context = 640;  ///< most tokens of a context
    std::uint32_t scored = 64;
    std::uint32_t threads = 1;
    double step = 1.0;
    ParallelFor parallel;
  };

  /// All must outlive it. Errors: out_of_memory
  static Result<CostMeter> create(llama_model* model, const llama_cpp::ModelFacts& facts, const Options& options, Ticker& ticker);
  /// tokens: the context, then options.scored tokens. layers: their key_steps are used.
  /// Errors: those of decode_text and read_state
  Result<Costs> measure(std::span<const llama_token> tokens, std::span<const Head> heads, std::span<const ProfileLayer> layers);
  /// Tokens that measure decodes, for progress.
  static std::uint64_t work(std::size_t token_count, std::size_t scored, std::size_t head_count);

 private:
  CostMeter(const llama_cpp::ModelFacts& facts, const Options& options, Ticker& ticker)
      : facts_(facts), options_(options), ticker_(ticker) {}
  Status disturb(const Head& head, std::span<const ProfileLayer> layers, llama_seq_id sequence);
  Status put_back(llama_seq_id sequence, std::span<const std::byte> state);
  Status decode_scored(std::span<const llama_token> scored);
  std::span<const float> logits(std::size_t sequence, std::size_t token) const;
  std::vector<double> divergences() const;

  const llama_cpp::ModelFacts& facts_;
  Options options_;
  Ticker& ticker_;
  ContextPtr context_;
  std::size_t vocabulary_ = 0;
  // Of the text at hand:
  SequenceState exact_;
  std::vector<std::byte> work_;  ///< exact_'s bytes, one head of them changed at a time
  std::vector<float> turns_;
  Distributions reference_;
};

}  // namespace cachecard::llama_calibrate
