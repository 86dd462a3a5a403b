#pragma once

#include <llama.h>

#include <string>

#include "llama_cpp/gguf_model.hpp"
#include "llama_cpp/state_writer.hpp"

/// A running llama_context, and what libllama does not tell of it.
namespace cachecard::llama_live {

/// The caller's context. Nobody else may use it while a function here runs: libllama does not lock.
struct LiveContext {
  llama_context* context = nullptr;
  /// Those that the context was made with: cache types, flash attention, streams and RoPE overrides stand
  /// nowhere else.
  llama_context_params params{};
  /// LLAMA_ATTN_ROT_DISABLE was set when it was made: its quantised cache is not Hadamard-rotated.
  bool rotation_disabled = false;
};

/// What the caller says of the model that the context runs. What is left empty is unknown, and unknown never
/// matches.
struct LiveModel {
  std::string path;          ///< of its GGUF file; without it weights and tokenizer are unknown
  std::string adapters;      ///< as cards name them, or "none"
  std::string cache_folder;  ///< for weight digests; empty: none
};

/// Geometry, RoPE (the context's overrides counted in) and identity of what runs. The file must tell what the
/// running model tells: every scalar key, its number of parameters and its size. Errors: model_mismatch
/// naming the key, identity_unknown (sliding windows without the file), read_model's
Result<llama_cpp::ModelFacts> live_facts(const LiveContext& live, const LiveModel& model);

/// How the context takes a sequence's state. Nothing in the context is touched.
/// Errors: geometry_mismatch for types that no card has
Result<llama_cpp::StateTemplate> live_template(const LiveContext& live, const llama_cpp::ModelFacts& facts,
                                               llama_seq_id sequence);

/// Layout of the states of the libllama that this was compiled with.
inline constexpr llama_cpp::StateLayout kLiveLayout =
    LLAMA_STATE_SEQ_VERSION == 3 ? llama_cpp::StateLayout::k10_3 : llama_cpp::StateLayout::k11_4;
static_assert(LLAMA_STATE_SEQ_VERSION == 3 || LLAMA_STATE_SEQ_VERSION == 4,
              "a state layout that is not known here");

}  // namespace cachecard::llama_live
