#include "loaded_model.hpp"

#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <numeric>

#include "llama_cpp/gguf_model.hpp"

namespace cachecard::llama_calibrate {
namespace {

Error error_of(ErrorCode code, std::string detail) { return {code, kNoOffset, {}, std::move(detail)}; }

/// A file that is gone when the object is.
class ScratchFile {
 public:
  explicit ScratchFile(const std::string& folder) : path_(folder + "/cachecard-f32.XXXXXX") {
    const int fd = ::mkstemp(path_.data());
    if (fd >= 0) ::close(fd);
    made_ = fd >= 0;
  }
  ScratchFile(const ScratchFile&) = delete;
  ScratchFile& operator=(const ScratchFile&) = delete;
  ~ScratchFile() {
    if (made_) ::unlink(path_.c_str());
  }
  bool made() const { return made_; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  bool made_ = false;
};

Result<ModelPtr> load_file(const std::string& path, const QuietLog& log) {
  llama_model_params params = llama_model_default_params();
  params.n_gpu_layers = 0;
  ModelPtr model(llama_model_load_from_file(path.c_str(), params));
  if (model != nullptr) return model;
  return error_of(ErrorCode::kForeignInput, "libllama does not load it" + log.reason());
}

Result<std::uint64_t> parameter_count(const std::string& path) {
  auto source = open_file(path);
  if (!source) return source.error();
  auto file = llama_cpp::read_gguf(**source);
  if (!file) return file.error();
  std::uint64_t count = 0;
  for (const auto& tensor : file->tensors) {
    count += std::accumulate(tensor.dims.begin(), tensor.dims.end(), std::uint64_t{1}, std::multiplies<>());
  }
  return count;
}

Status check_room(const std::string& folder, std::uint64_t needed) {
  struct statvfs room {};
  if (::statvfs(folder.c_str(), &room) != 0) return error_of(ErrorCode::kIo, folder + ": " + std::strerror(errno));
  const std::uint64_t free = std::uint64_t{room.f_bavail} * room.f_frsize;
  if (free > needed + (needed >> 4)) return {};
  return error_of(ErrorCode::kIo, "the F32 copy of the model takes " + std::to_string(needed >> 20) + " MiB in " + folder +
                                      ", where " + std::to_string(free >> 20) + " MiB are free: set TMPDIR to a larger one");
}

bool abort_decode(void* ticker) { return !static_cast<const Ticker*>(ticker)->go_on(); }

}  // namespace

Error stopped() { return error_of(ErrorCode::kInterrupted, "stopped by a signal"); }

QuietLog::QuietLog() {
  llama_log_set(
      [](ggml_log_level level, const char* text, void* user) {
        if (level == GGML_LOG_LEVEL_ERROR) *static_cast<std::string*>(user) = text;
      },
      &last_error_);
}

QuietLog::~QuietLog() {
  llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
}

std::string QuietLog::reason() const {
  std::string line = last_error_.substr(0, last_error_.find('\n'));
  return line.empty() ? std::string() : " (" + line + ")";
}

Result<ModelPtr> load_model(const std::string& path, const std::string& copy_folder, std::uint32_t threads,
                            const QuietLog& log) {
  if (copy_folder.empty()) return load_file(path, log);
  auto parameters = parameter_count(path);
  if (!parameters) return parameters.error();
  if (Status s = check_room(copy_folder, 4 * *parameters); !s) return s.error();
  const ScratchFile copy(copy_folder);
  if (!copy.made()) return error_of(ErrorCode::kIo, copy_folder + ": " + std::strerror(errno));
  llama_model_quantize_params params = llama_model_quantize_default_params();
  params.ftype = LLAMA_FTYPE_ALL_F32;
  params.allow_requantize = true;
  params.pure = true;
  params.nthread = static_cast<std::int32_t>(threads);
  if (llama_model_quantize(path.c_str(), copy.path().c_str(), &params) != 0) {
    return error_of(ErrorCode::kForeignInput, "libllama makes no F32 copy of it" + log.reason());
  }
  return load_file(copy.path(), log);  // mapped: it lives on without its name
}

Tokens tokenize(const llama_model* model, const std::string& text, const TokenizeOptions& options) {
  const llama_vocab* vocab = llama_model_get_vocab(model);
  Tokens tokens(text.size() + 8);  // a token has a byte or more, but for what begins and ends
  const std::int32_t count = llama_tokenize(vocab, text.data(), static_cast<std::int32_t>(text.size()), tokens.data(),
                                            static_cast<std::int32_t>(tokens.size()), options.begins, options.special);
  tokens.resize(static_cast<std::size_t>(std::max(count, 0)));
  return tokens;
}

llama_context_params context_params(const ContextShape& shape, ggml_backend_sched_eval_callback on_node, void* user) {
  llama_context_params params = llama_context_default_params();
  const std::uint32_t cells = (shape.token_count + 255) / 256 * 256;
  params.n_ctx = cells * shape.sequence_count;
  params.n_seq_max = shape.sequence_count;
  params.kv_unified = false;
  params.n_batch = std::max(shape.batch_count, shape.sequence_count);
  params.n_ubatch = params.n_batch;
  params.n_threads = params.n_threads_batch = static_cast<std::int32_t>(shape.threads);
  params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
  params.type_k = params.type_v = GGML_TYPE_F16;
  params.swa_full = true;
  params.cb_eval = on_node;
  params.cb_eval_user_data = user;
  return params;
}

Result<ContextPtr> make_context(llama_model* model, const llama_context_params& params, const Ticker& ticker) {
  ContextPtr context(llama_init_from_model(model, params));
  if (context == nullptr) {
    return error_of(ErrorCode::kOutOfMemory, "libllama makes no context of " + std::to_string(params.n_ctx) + " tokens");
  }
  llama_set_abort_callback(context.get(), abort_decode, const_cast<Ticker*>(&ticker));
  return context;
}

Result<ContextPtr> make_context(llama_model* model, const ContextShape& shape, const Ticker& ticker,
                                ggml_backend_sched_eval_callback on_node, void* user) {
  return make_context(model, context_params(shape, on_node, user), ticker);
}

Batch::Batch(std::uint32_t capacity) : batch_(llama_batch_init(static_cast<std::int32_t>(capacity), 0, 1)) {}
Batch::~Batch() { llama_batch_free(batch_); }

void Batch::add(llama_token token, llama_pos position, llama_seq_id sequence, bool scored) {
  const std::int32_t i = batch_.n_tokens++;
  batch_.token[i] = token;
  batch_.pos[i] = position;
  batch_.n_seq_id[i] = 1;
  batch_.seq_id[i][0] = sequence;
  batch_.logits[i] = scored;
}

Status Batch::decode(llama_context* context, Ticker& ticker) {
  const std::int32_t outcome = llama_decode(context, batch_);
  llama_synchronize(context);
  ticker.done += static_cast<std::uint64_t>(batch_.n_tokens);
  if (!ticker.go_on()) return stopped();
  if (outcome == 0) return {};
  return error_of(outcome == 1 ? ErrorCode::kOutOfMemory : ErrorCode::kInternal,
                  "libllama does not decode a batch of " + std::to_string(batch_.n_tokens) + " tokens (" +
                      std::to_string(outcome) + ")");
}

Status decode_text(llama_context* context, std::span<const llama_token> tokens, llama_seq_id sequence, Ticker& ticker) {
  const std::size_t most = llama_n_batch(context);
  Batch batch(static_cast<std::uint32_t>(most));
  for (std::size_t at = 0; at < tokens.size(); at += most) {
    batch.clear();
    for (std::size_t i = at; i < std::min(tokens.size(), at + most); ++i) {
      batch.add(tokens[i], static_cast<llama_pos>(i), sequence, false);
    }
    if (Status s = batch.decode(context, ticker); !s) return s;
  }
  return {};
}

}  // namespace cachecard::llama_calibrate
