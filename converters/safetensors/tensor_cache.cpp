#include "tensor_cache.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>

#include "safetensors_file.hpp"
#include "torch/pt_source.hpp"

namespace cachecard::safetensors {
namespace {

/// What a tensor's name says: whose keys or values it holds.
struct TensorRole {
  Naming naming;
  std::uint64_t layer = 0;
  enum Part : std::uint8_t { kKeys, kValues, kOffset } part = kKeys;
};

std::optional<std::uint64_t> number_of(std::string_view text) {
  std::uint64_t number = 0;
  const auto [next, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const bool plain =
      error == std::errc() && next == text.data() + text.size() && std::to_string(number) == text;
  return plain ? std::optional(number) : std::nullopt;
}

std::optional<TensorRole> role_of(std::string_view name) {
  if (name.starts_with("k_") || name.starts_with("v_")) {
    const auto layer = number_of(name.substr(2));
    if (!layer) return std::nullopt;
    return TensorRole{Naming::kKvcdn, *layer, name.front() == 'v' ? TensorRole::kValues : TensorRole::kKeys};
  }
  const std::size_t dot = name.find('.');
  if (dot == std::string_view::npos || name.size() != dot + 2 || name[dot + 1] < '0' || name[dot + 1] > '2') {
    return std::nullopt;
  }
  const auto layer = number_of(name.substr(0, dot));
  if (!layer) return std::nullopt;
  return TensorRole{Naming::kMlx, *layer, static_cast<TensorRole::Part>(name[dot + 1] - '0')};
}

Error unknown_name(std::string_view name) {
  const bool kvcdn =
      (name.starts_with("k_") || name.starts_with("v_")) && (name.ends_with("_q") || name.ends_with("_s"));
  const std::size_t dots = static_cast<std::size_t>(std::count(name.begin(), name.end(), '.'));
  if (kvcdn)
    return tensors_error(shown(name), "quantised caches of kvcdn are not read: save it as F16, BF16 or F32");
  if (dots == 2 && number_of(name.substr(0, name.find('.')))) {
    return tensors_error(shown(name), "quantised caches of mlx-lm are not read");
  }
  return tensors_error(shown(name),
                       "found a tensor that is no part of a cache, allowed are k_0, v_0, ... (kvcdn) and "
                       "0.0, 0.1, 1.0, ... (mlx-lm)");
}

/// Rows [token][head][channel] lie in a tensor [1, heads, tokens, channels].
Result<pytorch::PtTensor> tensor_of(const SafeTensor& tensor) {
  if (!dtype_of(tensor.dtype)) {
    return tensors_error(shown(tensor.name),
                         "found dtype " + shown(tensor.dtype) + ", allowed F32, F16, BF16");
  }
  const bool fits = tensor.shape.size() == 4 && tensor.shape[0] == 1 && tensor.size > 0 &&
                    tensor.shape[1] <= (1u << 20) && tensor.shape[3] <= (1u << 20);
  if (!fits) {
    std::string text;
    for (const std::uint64_t dim : tensor.shape) text += (text.empty() ? "" : ", ") + std::to_string(dim);
    return tensors_error(shown(tensor.name),
                         "found shape [" + text + "], allowed [1, heads, tokens, head_dim]");
  }
  pytorch::PtTensor out;
  out.offset = tensor.offset;
  pytorch::StridedShape& shape = out.shape;
  shape.element_bytes = dtype_info(*dtype_of(tensor.dtype))->block_bytes;
  shape.head_count = tensor.shape[1];
  shape.token_count = tensor.shape[2];
  shape.channel_count = tensor.shape[3];
  shape.channel_stride = shape.element_bytes;
  shape.token_stride = shape.channel_stride * shape.channel_count;
  shape.head_stride = shape.token_stride * shape.token_count;
  return out;
}

/// The tensors of all layers, by role.
struct Layers {
  Naming naming = Naming::kMlx;
  std::array<std::vector<const SafeTensor*>, 3> parts;  ///< by TensorRole::Part

  const std::vector<const SafeTensor*>& keys() const { return parts[TensorRole::kKeys]; }
  const std::vector<const SafeTensor*>& values() const { return parts[TensorRole::kValues]; }
};

Result<Layers> find_layers(const SafetensorsFile& file) {
  Layers layers;
  bool first = true;
  for (const SafeTensor& tensor : file.tensors) {
    const auto role = role_of(tensor.name);
    if (!role) return unknown_name(tensor.name);
    if (first) layers.naming = role->naming;
    first = false;
    if (role->naming != layers.naming)
      return tensors_error(shown(tensor.name), "found names of kvcdn and of mlx-lm in one file");
    if (role->layer >= file.tensors.size()) {
      return tensors_error(shown(tensor.name), "found layer " + std::to_string(role->layer) +
                                                   " in a file of " + std::to_string(file.tensors.size()) +
                                                   " tensors");
    }
    auto& side = layers.parts[role->part];
    if (side.size() <= role->layer) side.resize(role->layer + 1);
    side[role->layer] = &tensor;
  }
  if (first) return tensors_error("header", "found no tensor");
  std::size_t count = 0;
  for (const auto& side : layers.parts) count = std::max(count, side.size());
  for (auto& side : layers.parts) side.resize(count);
  for (std::size_t i = 0; i < count; ++i) {
    if (layers.keys()[i] != nullptr && layers.values()[i] != nullptr) continue;
    return tensors_error("header", "layer " + std::to_string(i) + " has no " +
                                       (layers.keys()[i] == nullptr ? "keys" : "values"));
  }
  return layers;
}

/// Where mlx-lm puts the user's metadata and the classes of caches. It flattens a list: since 0.32 [metadata,
/// classes, scalars], of which the first scalar is "", before [states, metadata, classes].
struct MlxKeys {
  std::string_view user;
  std::string_view classes;
};
MlxKeys mlx_keys(const SafetensorsFile& file) {
  const auto mark = file.metadata.find("2.0");
  if (mark != file.metadata.end() && mark->second.empty()) return {"0.", "1."};
  return {"1.", "2."};
}

Status check_classes(const SafetensorsFile& file) {
  const MlxKeys keys = mlx_keys(file);
  for (const auto& [key, value] : file.metadata) {
    if (!key.starts_with(keys.classes) || !number_of(std::string_view(key).substr(2))) continue;
    if (value == "KVCache" || value == "ConcatenateKVCache") continue;
    return tensors_error("__metadata__ " + shown(key),
                         "found a cache of class " + shown(value) + ", allowed KVCache");
  }
  return {};
}

/// Tokens that a layer's tensors really hold: mlx-lm's have room for more, and a tensor of one number says
/// how many.
Result<std::uint64_t> held_tokens(const ByteSource& source, const SafeTensor* offset, std::uint64_t room) {
  if (offset == nullptr) return room;
  std::int64_t held = 0;
  std::int32_t narrow = 0;
  const bool wide = offset->dtype == "I64";
  if ((!wide && offset->dtype != "I32") || offset->size != (wide ? sizeof(held) : sizeof(narrow))) {
    return tensors_error(shown(offset->name), "found " + shown(offset->dtype) + ", " +
                                                  std::to_string(offset->size) +
                                                  " bytes, allowed is one number, I32 or I64");
  }
  auto out =
      wide ? std::as_writable_bytes(std::span(&held, 1)) : std::as_writable_bytes(std::span(&narrow, 1));
  if (Status s = source.read_at(offset->offset, out); !s) return s.error();
  if (!wide) held = narrow;
  if (held > 0 && static_cast<std::uint64_t>(held) <= room) return static_cast<std::uint64_t>(held);
  return tensors_error(shown(offset->name),
                       "found " + std::to_string(held) + " tokens, allowed 1 to " + std::to_string(room));
}

class TextSource final : public CacheSource {
 public:
  TextSource(std::unique_ptr<CacheSource> source, std::string text)
      : source_(std::move(source)), text_(std::move(text)) {}
  const CardHeader& header() const override { return source_->header(); }
  std::span<const std::int32_t> token_ids() const override { return source_->token_ids(); }
  std::span<const std::int32_t> positions() const override { return source_->positions(); }
  const RopeTable* rope_table() const override { return source_->rope_table(); }
  std::string_view text() const override { return text_; }
  Status read_rows(std::size_t stream_index, std::uint64_t first_token, std::uint64_t token_count,
                   std::span<std::byte> out) const override {
    return source_->read_rows(stream_index, first_token, token_count, out);
  }

 private:
  std::unique_ptr<CacheSource> source_;
  std::string text_;
};

}  // namespace

Result<TensorCache> read_tensor_cache(const ByteSource& source) {
  auto file = read_safetensors(source);
  if (!file) return file.error();
  if (Status s = check_classes(*file); !s) return s.error();
  auto layers = find_layers(*file);
  if (!layers) return layers.error();
  TensorCache cache;
  cache.naming = layers->naming;
  const std::string_view user = mlx_keys(*file).user;
  for (const auto& [key, value] : file->metadata) {
    if (cache.naming == Naming::kMlx && key.starts_with(user)) cache.metadata.emplace(key.substr(2), value);
  }
  for (std::size_t i = 0; i < layers->keys().size(); ++i) {
    const SafeTensor& keys = *layers->keys()[i];
    const SafeTensor& values = *layers->values()[i];
    auto key = tensor_of(keys);
    if (!key) return key.error();
    auto value = tensor_of(values);
    if (!value) return value.error();
    if (key->shape.head_count != value->shape.head_count ||
        key->shape.token_count != value->shape.token_count) {
      return tensors_error("layer " + std::to_string(i),
                           "found keys and values of different heads or tokens");
    }
    auto held = held_tokens(source, layers->parts[TensorRole::kOffset][i], key->shape.token_count);
    if (!held) return held.error();
    pytorch::LayerShape shape;
    shape.key_dtype = *dtype_of(keys.dtype);
    shape.value_dtype = *dtype_of(values.dtype);
    shape.kv_head_count = static_cast<std::uint32_t>(key->shape.head_count);
    shape.key_head_dim = static_cast<std::uint32_t>(key->shape.channel_count);
    shape.value_head_dim = static_cast<std::uint32_t>(value->shape.channel_count);
    shape.token_count = *held;
    cache.tensors.shapes.push_back(shape);
    cache.tensors.keys.push_back(std::move(*key));
    cache.tensors.values.push_back(std::move(*value));
  }
  return cache;
}

Result<std::unique_ptr<CacheSource>> tensor_source(const ByteSource& source, pytorch::PtCache tensors,
                                                   pytorch::CacheFacts facts, std::string text) {
  auto values = pytorch::pt_source(source, std::move(tensors), std::move(facts));
  if (!values || text.empty()) return values;
  return std::unique_ptr<CacheSource>(new TextSource(std::move(*values), std::move(text)));
}

}  // namespace cachecard::safetensors
