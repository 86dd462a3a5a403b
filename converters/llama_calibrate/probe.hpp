#pragma once

#include <functional>
#include <string>
#include <vector>

#include "cachecard/allocate.hpp"
#include "cachecard/reader.hpp"

/// What a receiver will look at: its first text is read behind the context, in libllama, and attention is
/// looked at.
namespace cachecard::llama_calibrate {

struct ProbeText {
  std::string name;
  std::string text;  ///< special tokens that it spells out count as such
};

struct ProbeOptions {
  std::string model_path;     ///< GGUF
  std::string digest_folder;  ///< keeps digests of weights; empty: none
  std::uint32_t threads = 1;
  ParallelFor parallel;
  std::function<bool(std::uint64_t done, std::uint64_t total)>
      progress;  ///< tokens decoded, of all; false stops
};

struct ProbedText {
  TokenWeights weights;
  std::uint64_t token_count = 0;  ///< of the text
};

/// Token weights of each text by the card's KV heads: sqrt of the sum, over the text's tokens and the query
/// heads that share a KV head, of attention squared. The first tokens count the mean. Layers without
/// attention that is seen get 0. Memory: the model, an f16 cache of the card's tokens and those of the
/// longest text. Errors: invalid_argument (a text of no tokens, or too many), those of llama_live::inject,
/// unsupported_feature (attention that is not
///         seen), foreign_input, out_of_memory, interrupted
Result<std::vector<ProbedText>> probe(const CardReader& card, const std::vector<ProbeText>& texts,
                                      const ProbeOptions& options);

}  // namespace cachecard::llama_calibrate
