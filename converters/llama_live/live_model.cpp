#include <charconv>
#include <iterator>
#include <map>
#include <numeric>

#include "llama_live/live_context.hpp"

namespace cachecard::llama_live {
namespace {

using llama_cpp::GgufFile;
using llama_cpp::GgufValue;
using llama_cpp::KeyOverride;
using llama_cpp::ModelFacts;
using llama_cpp::ModelOptions;

using Keys = std::map<std::string, std::string>;

Error mismatch(const std::string& key, const std::string& running, const std::string& file) {
  return {ErrorCode::kModelMismatch, kNoOffset, key,
          "the running model has " + running + ", the file " + file + ": it is not the file that runs"};
}

/// One metadata string of the running model. A first call tells the size.
template <class Read>
std::string text_of(Read read) {
  const std::int32_t size = read(nullptr, 0);
  if (size <= 0) return {};
  std::string text(static_cast<std::size_t>(size) + 1, '\0');
  read(text.data(), text.size());
  text.resize(static_cast<std::size_t>(size));
  return text;
}

/// All scalar metadata of the running model, as strings; libllama leaves arrays out.
Keys keys_of(const llama_model* model) {
  Keys keys;
  for (std::int32_t i = 0; i < llama_model_meta_count(model); ++i) {
    const auto name = text_of(
        [&](char* out, std::size_t size) { return llama_model_meta_key_by_index(model, i, out, size); });
    keys[name] = text_of(
        [&](char* out, std::size_t size) { return llama_model_meta_val_str_by_index(model, i, out, size); });
  }
  return keys;
}

/// As libllama spells a value. source: llama-impl.cpp gguf_kv_to_str
std::string spelled(const GgufValue& value) {
  if (const auto* text = std::get_if<std::string>(&value)) return *text;
  if (const auto* number = std::get_if<std::uint64_t>(&value)) return std::to_string(*number);
  if (const auto* number = std::get_if<std::int64_t>(&value)) return std::to_string(*number);
  if (const auto* number = std::get_if<double>(&value)) return std::to_string(*number);
  if (const auto* flag = std::get_if<bool>(&value)) return *flag ? "true" : "false";
  return {};
}

/// The value that a spelling stands for. general.* and names of things are text whatever they look like.
GgufValue value_of(const std::string& name, const std::string& spelling) {
  const bool number_key = name == "general.file_type" || name == "general.quantization_version";
  const bool text = !number_key && (name.starts_with("general.") || name.ends_with(".type") ||
                                    name == "tokenizer.chat_template" || name == "tokenizer.ggml.model");
  if (text) return spelling;
  if (spelling == "true" || spelling == "false") return spelling == "true";
  const char* end = spelling.data() + spelling.size();
  std::uint64_t whole = 0;
  if (const auto [at, fault] = std::from_chars(spelling.data(), end, whole);
      fault == std::errc{} && at == end) {
    return whole;
  }
  double number = 0.0;
  if (const auto [at, fault] = std::from_chars(spelling.data(), end, number);
      fault == std::errc{} && at == end) {
    return number;
  }
  return spelling;
}

/// Numbers of parameters and bytes, which no two quantisations of a model share.
Status check_tensors(const llama_model* model, const GgufFile& file) {
  if (file.u64("split.count").value_or(0) > 1) return {};  // each part has some of the tensors
  std::uint64_t parameters = 0;
  std::uint64_t bytes = 0;
  for (const auto& tensor : file.tensors) {
    parameters +=
        std::accumulate(tensor.dims.begin(), tensor.dims.end(), std::uint64_t{1}, std::multiplies<>());
    bytes += tensor.size;
  }
  if (parameters != llama_model_n_params(model)) {
    return mismatch("parameters", std::to_string(llama_model_n_params(model)), std::to_string(parameters));
  }
  if (bytes != llama_model_size(model)) {
    return mismatch("bytes", std::to_string(llama_model_size(model)), std::to_string(bytes));
  }
  return {};
}

Status check_file(const llama_model* model, const Keys& running, const std::string& path) {
  auto source = open_file(path);
  if (!source) return source.error();
  auto file = llama_cpp::read_gguf(**source);
  if (!file) return file.error();
  for (const auto& [name, value] : file->keys) {
    const auto found = running.find(name);
    if (std::holds_alternative<llama_cpp::GgufArray>(value)) continue;
    if (found == running.end()) return mismatch(name, "no such key", spelled(value));
    if (found->second != spelled(value)) return mismatch(name, found->second, spelled(value));
  }
  return check_tensors(model, *file);
}

void add(std::vector<KeyOverride>& out, const char* name, GgufValue value) {
  out.push_back({name, std::move(value)});
}

/// What llama_context_params say over the model. source: llama-context.cpp, constructor
std::vector<KeyOverride> overrides_of(const llama_context_params& params, const llama_model* model,
                                      const Keys& running, const std::string& prefix) {
  std::vector<KeyOverride> out;
  if (params.rope_freq_base != 0.0f) add(out, "rope.freq_base", static_cast<double>(params.rope_freq_base));
  if (params.rope_freq_scale != 0.0f && params.rope_freq_scale != llama_model_rope_freq_scale_train(model)) {
    add(out, "rope.scaling.factor", 1.0 / static_cast<double>(params.rope_freq_scale));
  }
  static constexpr const char* kScalings[] = {"none", "linear", "yarn", "longrope"};
  const auto scaling = static_cast<std::int32_t>(params.rope_scaling_type);  // -1: the model's
  if (scaling >= 0 && scaling < static_cast<std::int32_t>(std::size(kScalings))) {
    add(out, "rope.scaling.type", std::string(kScalings[scaling]));
  }
  if (params.yarn_orig_ctx != 0) {
    add(out, "rope.scaling.original_context_length", std::uint64_t{params.yarn_orig_ctx});
  }
  const auto set_if = [&out](const char* name, float value) {
    if (value >= 0.0f) add(out, name, static_cast<double>(value));
  };
  set_if("rope.scaling.yarn_ext_factor", params.yarn_ext_factor);
  set_if("rope.scaling.yarn_beta_fast", params.yarn_beta_fast);
  set_if("rope.scaling.yarn_beta_slow", params.yarn_beta_slow);
  if (params.yarn_attn_factor >= 0.0f) {  // times the model's own
    const auto own = running.find(prefix + "rope.scaling.attn_factor");
    const GgufValue value = own == running.end() ? GgufValue(1.0) : value_of(own->first, own->second);
    const double* factor = std::get_if<double>(&value);
    add(out, "rope.scaling.attn_factor",
        static_cast<double>(params.yarn_attn_factor) * (factor != nullptr ? *factor : 1.0));
  }
  return out;
}

/// Counts that libllama tells, however it came to them.
Status check_counts(const llama_model* model, const ModelFacts& facts) {
  const auto check = [](const char* name, std::int64_t running, std::int64_t told) -> Status {
    if (running == told) return {};
    return mismatch(name, std::to_string(running), std::to_string(told));
  };
  const bool plain = facts.module != ModelFacts::Module::kOther && !facts.key_only;
  if (plain) {
    if (Status s = check("head_count_kv", llama_model_n_head_kv(model), facts.kv_head_count[0]); !s) return s;
  }
  return check("sliding_window",
               facts.module == ModelFacts::Module::kSlidingPair ? llama_model_n_swa(model) : 0,
               facts.module == ModelFacts::Module::kSlidingPair ? facts.sliding_window : 0);
}

Result<ModelFacts> facts_from_keys(const llama_model* model, const Keys& running,
                                   const ModelOptions& options) {
  if (llama_model_n_swa(model) > 0) {
    return Error{ErrorCode::kIdentityUnknown, kNoOffset, "model",
                 "which layers slide stands in the model's file: give its path"};
  }
  GgufFile file;
  for (const auto& [name, spelling] : running) file.keys[name] = value_of(name, spelling);
  auto facts = llama_cpp::facts_of_keys(std::move(file), options);
  if (!facts) return facts;
  const auto tokens = static_cast<std::uint64_t>(llama_vocab_n_tokens(llama_model_get_vocab(model)));
  facts->identity.set_u64(IdentityField::kVocabSize, tokens);
  return facts;
}

}  // namespace

Result<ModelFacts> live_facts(const LiveContext& live, const LiveModel& given) {
  const llama_model* model = llama_get_model(live.context);
  const Keys running = keys_of(model);
  const auto architecture = running.find("general.architecture");
  const std::string prefix = architecture == running.end() ? "" : architecture->second + ".";
  ModelOptions options;
  options.overrides = overrides_of(live.params, model, running, prefix);
  options.cache_folder = given.cache_folder;
  if (!given.path.empty()) {
    if (Status s = check_file(model, running, given.path); !s) return s.error();
  }
  auto facts = given.path.empty() ? facts_from_keys(model, running, options)
                                  : llama_cpp::read_model(given.path, options);
  if (!facts) return facts;
  if (Status s = check_counts(model, *facts); !s) return s.error();
  if (!given.adapters.empty()) facts->identity.set_text(IdentityField::kAdapters, given.adapters);
  facts->identity.set_text(IdentityField::kProducer, std::string("libllama ") + llama_version());
  return facts;
}

}  // namespace cachecard::llama_live
