#include <algorithm>
#include <cstring>

#include "architectures.hpp"
#include "foreign_reader.hpp"
#include "gguf_model.hpp"
#include "model_digest.hpp"
#include "model_identity.hpp"
#include "model_rope.hpp"

namespace cachecard::llama_cpp {
namespace {

using Module = ModelFacts::Module;
constexpr std::uint64_t kMaxLayers = 512;  // source: llama-hparams.h LLAMA_MAX_LAYERS
constexpr std::uint64_t kMaxWidth = 1u << 20;

/// Integer keys of one architecture, scalar or array.
class LayerKeys {
 public:
  LayerKeys(const ByteSource& source, const GgufFile& file, std::string prefix)
      : source_(source), file_(file), prefix_(std::move(prefix)) {}

  const GgufFile& file() const { return file_; }
  std::string key(std::string_view name) const { return prefix_ + std::string(name); }

  /// Value of a key, at most kMaxWidth. Errors: limit_exceeded
  Result<std::optional<std::uint32_t>> number(std::string_view name) const {
    const auto value = file_.u64(key(name));
    if (!value) return std::optional<std::uint32_t>();
    if (*value > kMaxWidth) return too_large(name, *value);
    return std::optional(static_cast<std::uint32_t>(*value));
  }

  /// One value for each layer; a scalar counts for all. nullopt: no such key.
  Result<std::optional<std::vector<std::uint32_t>>> per_layer(std::string_view name,
                                                              std::uint32_t layer_count) const;

 private:
  Error too_large(std::string_view name, std::uint64_t value) const {
    return {ErrorCode::kLimitExceeded, kNoOffset, key(name),
            std::to_string(value) + ", allowed are " + std::to_string(kMaxWidth)};
  }

  const ByteSource& source_;
  const GgufFile& file_;
  std::string prefix_;
};

template <class Stored>
std::uint64_t load_element(const std::byte* bytes) {
  Stored value{};
  std::memcpy(&value, bytes, sizeof(value));
  return value < 0 ? ~std::uint64_t{0} : static_cast<std::uint64_t>(value);
}

Result<std::optional<std::vector<std::uint32_t>>> LayerKeys::per_layer(std::string_view name,
                                                                       std::uint32_t layer_count) const {
  using Values = std::optional<std::vector<std::uint32_t>>;
  const auto found = file_.keys.find(key(name));
  if (found == file_.keys.end()) return Values();
  const auto* array = std::get_if<GgufArray>(&found->second);
  if (array == nullptr) {
    auto value = number(name);
    if (!value) return value.error();
    if (!*value) return Values();
    return Values(std::vector<std::uint32_t>(layer_count, **value));
  }
  const std::uint64_t element = array->count == 0 ? 0 : array->size / array->count;
  if (array->count != layer_count || (element != 1 && element != 4) || array->element_type == 8) {
    return foreign_error(
        array->offset, key(name),
        std::to_string(array->count) + " values for " + std::to_string(layer_count) + " layers");
  }
  std::vector<std::byte> bytes(array->size);
  auto status = source_.read_at(array->offset, bytes);
  if (!status) return status.error();
  std::vector<std::uint32_t> values;
  for (std::uint32_t i = 0; i < layer_count; ++i) {
    const std::byte* at = bytes.data() + i * element;
    const std::uint64_t value =
        element == 1 ? load_element<std::uint8_t>(at) : load_element<std::int32_t>(at);
    if (value > kMaxWidth) return too_large(name, value);
    values.push_back(static_cast<std::uint32_t>(value));
  }
  return Values(std::move(values));
}

/// Where the window layers are. Clears facts.sliding_window where the model has none.
Status set_sliding(const LayerKeys& keys, const SlidingRule& rule, ModelFacts& facts) {
  facts.layer_is_sliding.assign(facts.layer_count, 0);
  auto window = keys.number("attention.sliding_window");
  if (!window) return window.error();
  const std::uint32_t found = window->value_or(rule.default_window);
  if (found == 0 || (rule.only_layer_count != 0 && rule.only_layer_count != facts.layer_count)) {
    return {};
  }
  facts.sliding_window = rule.fixed_window != 0 ? rule.fixed_window : found;
  const auto array = keys.file().keys.find(keys.key("attention.sliding_window_pattern"));
  if (array != keys.file().keys.end() && std::holds_alternative<GgufArray>(array->second)) {
    auto pattern = keys.per_layer("attention.sliding_window_pattern", facts.layer_count);
    if (!pattern) return pattern.error();
    for (std::uint32_t i = 0; i < facts.layer_count; ++i) {
      facts.layer_is_sliding[i] = (**pattern)[i] != 0;
    }
    return {};
  }
  auto number = keys.number("attention.sliding_window_pattern");
  if (!number) return number.error();
  const std::uint32_t pattern = number->value_or(rule.pattern);
  // source: llama-hparams.cpp set_swa_pattern
  for (std::uint32_t i = 0; i < facts.layer_count; ++i) {
    facts.layer_is_sliding[i] =
        pattern == 0 || (rule.full_first ? i % pattern != 0 : i % pattern < pattern - 1);
  }
  return {};
}

Status set_heads(const LayerKeys& keys, ModelFacts& facts) {
  auto heads = keys.per_layer("attention.head_count", facts.layer_count);
  if (!heads) return heads.error();
  auto kv_heads = keys.per_layer("attention.head_count_kv", facts.layer_count);
  if (!kv_heads) return kv_heads.error();
  const std::vector<std::uint32_t> none(facts.layer_count, 0);
  const auto& head_count = *heads ? **heads : none;
  facts.kv_head_count = *kv_heads ? **kv_heads : head_count;
  auto embedding = keys.number("embedding_length");
  if (!embedding) return embedding.error();
  const std::uint32_t first = head_count.empty() ? 0 : head_count[0];
  const std::uint32_t width = first == 0 ? 0 : embedding->value_or(0) / first;
  for (const bool value : {false, true}) {
    auto full = keys.number(value ? "attention.value_length" : "attention.key_length");
    if (!full) return full.error();
    auto sliding = keys.number(value ? "attention.value_length_swa" : "attention.key_length_swa");
    if (!sliding) return sliding.error();
    auto& dims = value ? facts.value_head_dim : facts.key_head_dim;
    dims.assign(facts.layer_count, full->value_or(width));
    for (std::uint32_t i = 0; i < facts.layer_count && *sliding; ++i) {
      if (facts.layer_is_sliding[i] != 0) dims[i] = **sliding;
    }
  }
  return {};
}

/// Layers without a cache of their own: draft layers at the end, and layers that reuse another's.
Status drop_uncached_layers(const LayerKeys& keys, const Architecture& architecture, ModelFacts& facts) {
  auto drafts = keys.number("nextn_predict_layers");
  if (!drafts) return drafts.error();
  auto shared = keys.number("attention.shared_kv_layers");
  if (!shared) return shared.error();
  std::uint32_t cached = facts.layer_count;
  if (architecture.sliding.cached_layers != 0) {
    cached = std::min(cached, architecture.sliding.cached_layers);
  }
  cached -= std::min(cached, std::max(drafts->value_or(0), shared->value_or(0)));
  for (std::uint32_t i = cached; i < facts.layer_count; ++i) facts.kv_head_count[i] = 0;
  return {};
}

Module module_of(const ModelFacts& facts) {
  bool cached = false;
  bool sliding = false;
  for (std::uint32_t i = 0; i < facts.layer_count; ++i) {
    if (facts.kv_head_count[i] == 0) continue;
    cached = true;
    sliding = sliding || facts.layer_is_sliding[i] != 0;
    if (facts.key_head_dim[i] == 0) return Module::kOther;
    if (facts.value_head_dim[i] == 0 && !facts.key_only) return Module::kOther;
  }
  if (!cached) return Module::kOther;
  return facts.sliding_window != 0 && sliding ? Module::kSlidingPair : Module::kPlain;
}

Status set_geometry(const LayerKeys& keys, const Architecture& architecture, ModelFacts& facts) {
  auto status = Status{};
  facts.layer_is_sliding.assign(facts.layer_count, 0);
  if (architecture.memory == MemoryRule::kSliding) {
    status = set_sliding(keys, architecture.sliding, facts);
    if (!status) return status;
  }
  status = set_heads(keys, facts);
  if (!status) return status;
  // A layer without KV heads (deci) has a tensor of no width: not understood, so kept opaque.
  const bool empty_layers = std::count(facts.kv_head_count.begin(), facts.kv_head_count.end(), 0u) != 0;
  status = drop_uncached_layers(keys, architecture, facts);
  if (!status) return status;
  auto latent = keys.number("attention.key_length_mla");
  if (!latent) return latent.error();
  facts.key_only = latent->value_or(0) != 0;
  const bool understood = architecture.memory != MemoryRule::kOther && !empty_layers &&
                          (!facts.key_only || architecture.rotated_last);
  facts.module = understood ? module_of(facts) : Module::kOther;
  return {};
}

Result<ModelFacts> facts_of(const ByteSource& source, GgufFile& file, const ModelOptions& options) {
  ModelFacts facts;
  facts.architecture = file.text("general.architecture").value_or("");
  if (facts.architecture.empty()) {
    return foreign_error(kNoOffset, "general.architecture", "missing: not a model file");
  }
  for (const KeyOverride& entry : options.overrides) {
    file.keys[facts.architecture + "." + entry.name] = entry.value;
  }
  const LayerKeys keys(source, file, facts.architecture + ".");
  const auto layers = file.u64(keys.key("block_count"));
  if (!layers || *layers == 0 || *layers > kMaxLayers) {
    return foreign_error(kNoOffset, keys.key("block_count"),
                         std::to_string(layers.value_or(0)) + ", allowed are 1 to 512");
  }
  facts.layer_count = static_cast<std::uint32_t>(*layers);
  facts.module = Module::kOther;  // until its architecture is known
  const Architecture* architecture = find_architecture(facts.architecture);
  RopeType rope = RopeType::kNone;
  if (architecture != nullptr) {
    auto status = set_geometry(keys, *architecture, facts);
    if (!status) return status.error();
    auto resolved = set_rope_facts(source, file, *architecture, facts);
    if (!resolved) return resolved.error();
    rope = *resolved;
  }
  auto identity = model_identity(source, file, architecture, rope);
  if (!identity) return identity.error();
  facts.identity = *std::move(identity);
  if (rope != RopeType::kNone) {
    facts.identity.set_u64(IdentityField::kRopeDimensionCount, facts.rope_dimension_count);
  }
  return facts;
}

}  // namespace

Result<ModelFacts> read_model(const std::string& gguf_path, const ModelOptions& options) {
  auto source = open_file(gguf_path);
  if (!source) return source.error();
  auto file = read_gguf(**source);
  if (!file) return file.error();
  auto facts = facts_of(**source, *file, options);
  if (!facts || !options.weights_digest) return facts;
  auto digest = cached_weights_digest(gguf_path, **source, *file, options.cache_folder);
  if (!digest) return digest.error();
  if (*digest) facts->identity.set_digest(IdentityField::kWeightsDigest, **digest);
  return facts;
}

Result<ModelFacts> facts_of_keys(GgufFile file, const ModelOptions& options) {
  auto facts = facts_of(MemorySource({}), file, options);
  if (facts) facts->rope_table.reset();  // Llama 3's factors are a tensor
  return facts;
}

}  // namespace cachecard::llama_cpp
