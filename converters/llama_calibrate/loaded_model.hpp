#pragma once

#include <llama.h>

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cachecard/error.hpp"

/// libllama's model and contexts, owned.
namespace cachecard::llama_calibrate {

/// Counts what is decoded, and asks whether to go on.
struct Ticker {
  std::function<bool(std::uint64_t, std::uint64_t)> progress;
  std::uint64_t done = 0;
  std::uint64_t total = 0;

  bool go_on() const { return !progress || progress(done, total); }
};

Error stopped();

/// Keeps libllama's log to itself: one line of it, the last error. Invariant: one at a time in a process.
class QuietLog {
 public:
  QuietLog();
  QuietLog(const QuietLog&) = delete;
  QuietLog& operator=(const QuietLog&) = delete;
  ~QuietLog();
  /// "reason" of a failure in brackets, or nothing.
  std::string reason() const;

 private:
  std::string last_error_;
};

struct FreeModel {
  void operator()(llama_model* model) const { llama_model_free(model); }
};
struct FreeContext {
  void operator()(llama_context* context) const { llama_free(context); }
};
using ModelPtr = std::unique_ptr<llama_model, FreeModel>;
using ContextPtr = std::unique_ptr<llama_context, FreeContext>;
using Tokens = std::vector<llama_token>;

/// Loads a model on the CPU. Where copy_folder is not empty, in an F32 copy, made there and gone at once.
/// Errors: io (no room for the copy), foreign_input
Result<ModelPtr> load_model(const std::string& path, const std::string& copy_folder, std::uint32_t threads,
                            const QuietLog& log);

struct TokenizeOptions {
  bool begins = true;    ///< the text is the first: with what the model puts there
  bool special = false;  ///< special tokens that the text spells out count as such
};
Tokens tokenize(const llama_model* model, const std::string& text, const TokenizeOptions& options = {});

/// An f16 cache with flash attention, in which each sequence has token_count cells of its own.
struct ContextShape {
  std::uint32_t token_count = 0;
  std::uint32_t sequence_count = 1;
  std::uint32_t batch_count = 512;  ///< tokens decoded at once
  std::uint32_t threads = 1;
};
llama_context_params context_params(const ContextShape& shape, ggml_backend_sched_eval_callback on_node = nullptr,
                                    void* user = nullptr);
/// ticker must outlive the context. Errors: out_of_memory
Result<ContextPtr> make_context(llama_model* model, const llama_context_params& params, const Ticker& ticker);
Result<ContextPtr> make_context(llama_model* model, const ContextShape& shape, const Ticker& ticker,
                                ggml_backend_sched_eval_callback on_node = nullptr, void* user = nullptr);

/// A batch of tokens of several sequences.
class Batch {
 public:
  explicit Batch(std::uint32_t capacity);
  Batch(const Batch&) = delete;
  Batch& operator=(const Batch&) = delete;
  ~Batch();
  void clear() { batch_.n_tokens = 0; }
  void add(llama_token token, llama_pos position, llama_seq_id sequence, bool scored);
  /// Errors: interrupted, out_of_memory, internal
  Status decode(llama_context* context, Ticker& ticker);

 private:
  llama_batch batch_;
};

/// A whole text as one sequence from position 0. Errors: as Batch::decode
Status decode_text(llama_context* context, std::span<const llama_token> tokens, llama_seq_id sequence, Ticker& ticker);

}  // namespace cachecard::llama_calibrate
