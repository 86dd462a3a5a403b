#include "torch_cache.hpp"

#include <ATen/ATen.h>
#include <caffe2/serialize/inline_container.h>
#include <torch/csrc/jit/serialization/pickle.h>

#include "card_layers.hpp"
#include "pt_error.hpp"
#include "strided_rows.hpp"
#include "torch_module.hpp"

namespace cachecard::pytorch {
namespace {

/// Runs what may throw; torch's own text, cut to its first line.
template <class Run>
auto guarded(const Run& run) -> decltype(run()) {
  const auto line = [](const char* text) {
    return shown(std::string(text).substr(0, std::string(text).find('\n')));
  };
  try {
    const c10::NoGradGuard no_grad;
    return run();
  } catch (const std::bad_alloc&) {
    return Error{ErrorCode::kOutOfMemory, kNoOffset, "torch", "no memory for a tensor"};
  } catch (const c10::Error& error) {
    return Error{ErrorCode::kIo, kNoOffset, "torch", line(error.what_without_backtrace())};
  } catch (const std::exception& error) {
    return Error{ErrorCode::kIo, kNoOffset, "torch", line(error.what())};
  }
}

std::optional<DType> dtype_of(at::ScalarType type) {
  if (type == at::kFloat) return DType::kF32;
  if (type == at::kHalf) return DType::kF16;
  if (type == at::kBFloat16) return DType::kBf16;
  return std::nullopt;
}

at::ScalarType scalar_of(DType dtype) {
  if (dtype == DType::kF16) return at::kHalf;
  return dtype == DType::kBf16 ? at::kBFloat16 : at::kFloat;
}

std::string sizes_text(const at::Tensor& tensor) {
  std::string text = "[";
  for (const std::int64_t size : tensor.sizes()) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  return text + "]";
}

Status check_tensor(const at::Tensor& tensor, const std::string& where) {
  if (!tensor.defined()) return pt_error(kNoOffset, where, "found no tensor");
  if (tensor.layout() != at::kStrided || tensor.is_quantized()) {
    return pt_error(kNoOffset, where, "found a sparse or quantised tensor, allowed is a dense one");
  }
  if (tensor.dim() != 4) {
    return pt_error(kNoOffset, where,
                    "found sizes " + sizes_text(tensor) + ", allowed [1, heads, tokens, head_dim]");
  }
  if (tensor.size(0) != 1) {
    return pt_error(kNoOffset, where, "found a batch of " + std::to_string(tensor.size(0)) + ", allowed 1");
  }
  if (dtype_of(tensor.scalar_type())) return {};
  return pt_error(
      kNoOffset, where,
      "found " + std::string(c10::toString(tensor.scalar_type())) + ", allowed Float, Half and BFloat16");
}

StridedShape shape_of(const at::Tensor& tensor) {
  const auto size = [&](int i) { return static_cast<std::uint64_t>(tensor.size(i)); };
  const auto bytes = static_cast<std::uint64_t>(tensor.element_size());
  const auto stride = [&](int i) { return static_cast<std::uint64_t>(tensor.stride(i)) * bytes; };
  return {size(1), size(2), size(3), bytes, stride(1), stride(2), stride(3)};
}

Result<LayerShape> layer_shape(const LayerTensors& layer, std::size_t index) {
  const std::string where = "layer " + std::to_string(index);
  if (Status s = check_tensor(layer.key, where + " key"); !s) return s.error();
  if (Status s = check_tensor(layer.value, where + " value"); !s) return s.error();
  if (layer.key.size(1) != layer.value.size(1) || layer.key.size(2) != layer.value.size(2)) {
    return pt_error(kNoOffset, where,
                    "keys are " + sizes_text(layer.key) + ", values " + sizes_text(layer.value));
  }
  LayerShape shape;
  shape.key_dtype = *dtype_of(layer.key.scalar_type());
  shape.value_dtype = *dtype_of(layer.value.scalar_type());
  shape.kv_head_count = static_cast<std::uint32_t>(layer.key.size(1));
  shape.key_head_dim = static_cast<std::uint32_t>(layer.key.size(3));
  shape.value_head_dim = static_cast<std::uint32_t>(layer.value.size(3));
  shape.token_count = static_cast<std::uint64_t>(layer.key.size(2));
  shape.first_token = layer.first_token;
  shape.window = layer.window;
  return shape;
}

/// Invariant: stream 2i is the key of layer i, stream 2i + 1 its value.
class TensorSource final : public CacheSource {
 public:
  TensorSource(std::vector<LayerTensors> layers, CacheLayout layout, std::optional<RopeTable> table)
      : layers_(std::move(layers)), layout_(std::move(layout)), rope_table_(std::move(table)) {}

  const CardHeader& header() const override { return layout_.header; }
  std::span<const std::int32_t> token_ids() const override { return layout_.token_ids; }
  std::span<const std::int32_t> positions() const override { return layout_.positions; }
  const RopeTable* rope_table() const override { return rope_table_ ? &*rope_table_ : nullptr; }

  Status read_rows(std::size_t stream_index, std::uint64_t first_token, std::uint64_t token_count,
                   std::span<std::byte> out) const override {
    return guarded([&]() -> Status {
      if (stream_index >= layout_.header.streams.size()) {
        return Error{ErrorCode::kInvalidArgument, kNoOffset, "stream", "the source has no such stream"};
      }
      const StreamRecord& stream = layout_.header.streams[stream_index];
      const LayerTensors& layer = layers_[stream_index / 2];
      at::Tensor tensor = stream_index % 2 == 0 ? layer.key : layer.value;
      const bool inside = first_token >= stream.first_token && token_count <= stream.token_count &&
                          first_token - stream.first_token <= stream.token_count - token_count;
      if (!inside || out.size() != token_count * shape_of(tensor).row_bytes()) {
        return Error{ErrorCode::kInvalidArgument, kNoOffset, "first_token",
                     "rows outside what the stream holds"};
      }
      tensor = tensor.narrow(2, static_cast<std::int64_t>(first_token - stream.first_token),
                             static_cast<std::int64_t>(token_count));
      if (!tensor.device().is_cpu()) tensor = tensor.to(at::kCPU);
      gather_rows(static_cast<const std::byte*>(tensor.data_ptr()), shape_of(tensor), 0, token_count, out);
      return {};
    });
  }

 private:
  std::vector<LayerTensors> layers_;
  CacheLayout layout_;
  std::optional<RopeTable> rope_table_;
};

DecodeOptions decode_options(const TensorOptions& options) {
  return {options.token_count, options.pairing, options.parallel, options.finite};
}

DecodeTarget target_of(const at::Tensor& tensor) {
  const StridedShape shape = shape_of(tensor);
  DecodeTarget target;
  target.base = tensor.data_ptr();
  target.dtype = *dtype_of(tensor.scalar_type());
  target.token_stride = static_cast<std::int64_t>(shape.token_stride);
  target.head_stride = static_cast<std::int64_t>(shape.head_stride);
  target.channel_stride = static_cast<std::int64_t>(shape.channel_stride);
  return target;
}

/// Decodes straight into a tensor's memory; for another device into a CPU tensor of its shape first.
Status decode_into(const CardReader& card, std::size_t stream, const at::Tensor& tensor,
                   const DecodeOptions& options) {
  if (tensor.device().is_cpu()) return decode_stream(card, stream, target_of(tensor), options);
  const at::Tensor staged = at::empty(tensor.sizes(), tensor.options().device(at::kCPU));
  if (Status s = decode_stream(card, stream, target_of(staged), options); !s) return s;
  tensor.copy_(staged);
  return {};
}

Status check_fit(const StreamRecord& stream, std::uint64_t token_count, const at::Tensor& tensor) {
  const std::string where = "layer " + std::to_string(stream.layer) + " " +
                            std::string(name_of(static_cast<StreamKind>(stream.stream)));
  if (Status s = check_tensor(tensor, where); !s)
    return Error{ErrorCode::kGeometryMismatch, kNoOffset, where, s.error().detail};
  const StridedShape shape = shape_of(tensor);
  if (shape.head_count == stream.kv_head_count && shape.token_count == token_count &&
      shape.channel_count == stream.head_dim) {
    return {};
  }
  return Error{ErrorCode::kGeometryMismatch, kNoOffset, where,
               "found sizes " + sizes_text(tensor) + ", the card needs [1, " +
                   std::to_string(stream.kv_head_count) + ", " + std::to_string(token_count) + ", " +
                   std::to_string(stream.head_dim) + "]"};
}

}  // namespace

Result<std::unique_ptr<CacheSource>> tensor_source(std::vector<LayerTensors> layers, CacheFacts facts) {
  return guarded([&]() -> Result<std::unique_ptr<CacheSource>> {
    std::vector<LayerShape> shapes;
    for (std::size_t i = 0; i < layers.size(); ++i) {
      auto shape = layer_shape(layers[i], i);
      if (!shape) return shape.error();
      shapes.push_back(*shape);
      layers[i].key = layers[i].key.detach();
      layers[i].value = layers[i].value.detach();
    }
    auto table = facts.rope_state == RopeState::kNone ? std::nullopt : std::move(facts.rope_table);
    auto layout = lay_out(shapes, std::move(facts));
    if (!layout) return layout.error();
    return std::unique_ptr<CacheSource>(
        new TensorSource(std::move(layers), std::move(*layout), std::move(table)));
  });
}

Status read_into(const CardReader& card, const std::vector<LayerTensors>& layers,
                 const TensorOptions& options) {
  return guarded([&]() -> Status {
    const DecodeOptions decode = decode_options(options);
    auto streams = card_layers(card.header());
    if (!streams) return streams.error();
    if (Status s = check_prefix(card.header(), decode); !s) return s;
    if (layers.size() != streams->size()) {
      return Error{ErrorCode::kGeometryMismatch, kNoOffset, "layers",
                   "found tensors of " + std::to_string(layers.size()) + " layers, the card has " +
                       std::to_string(streams->size())};
    }
    // Every tensor is checked before the first is written.
    for (const bool write : {false, true}) {
      for (std::size_t i = 0; i < layers.size(); ++i) {
        for (const auto& [stream, tensor] :
             {std::pair{(*streams)[i].key, layers[i].key}, std::pair{(*streams)[i].value, layers[i].value}}) {
          const StreamRecord& record = card.header().streams[stream];
          Status s = write ? decode_into(card, stream, tensor, decode)
                           : check_fit(record, held_tokens(record, decode), tensor);
          if (!s) return s;
        }
      }
    }
    return {};
  });
}

Result<std::vector<LayerTensors>> read_tensors(const CardReader& card, const TensorOptions& options) {
  return guarded([&]() -> Result<std::vector<LayerTensors>> {
    const DecodeOptions decode = decode_options(options);
    auto streams = card_layers(card.header());
    if (!streams) return streams.error();
    if (Status s = check_prefix(card.header(), decode); !s) return s.error();
    std::vector<LayerTensors> layers;
    for (const CardLayer& layer : *streams) {
      const auto make = [&](const StreamRecord& stream) {
        const auto type = options.dtype.value_or(scalar_of(float_type_of(stream)));
        return at::empty({1, stream.kv_head_count, static_cast<std::int64_t>(held_tokens(stream, decode)),
                          stream.head_dim},
                         at::TensorOptions().dtype(type).device(options.device));
      };
      const StreamRecord& key = card.header().streams[layer.key];
      layers.push_back({make(key), make(card.header().streams[layer.value]), key.first_token, key.window});
    }
    if (Status s = read_into(card, layers, options); !s) return s.error();
    return layers;
  });
}

namespace {

/// A ByteSource as libtorch's archive reader takes one.
class SourceAdapter final : public caffe2::serialize::ReadAdapterInterface {
 public:
  explicit SourceAdapter(const ByteSource& source) : source_(source) {}
  std::size_t size() const override { return source_.size(); }
  std::size_t read(std::uint64_t offset, void* out, std::size_t count, const char* what) const override {
    const Status s = source_.read_at(offset, {static_cast<std::byte*>(out), count});
    TORCH_CHECK(s, what, ": ", s.error().message());
    return count;
  }

 private:
  const ByteSource& source_;
};

at::Tensor load_tensor(caffe2::serialize::PyTorchStreamReader& reader, const PtTensor& tensor, DType dtype) {
  auto [data, size] = reader.getRecord("data/" + tensor.storage);
  const auto bytes = tensor.shape.element_bytes;
  const auto number = [](std::uint64_t value) { return static_cast<std::int64_t>(value); };
  const std::vector<std::int64_t> sizes{1, number(tensor.shape.head_count), number(tensor.shape.token_count),
                                        number(tensor.shape.channel_count)};
  const std::vector<std::int64_t> strides{0, number(tensor.shape.head_stride / bytes),
                                          number(tensor.shape.token_stride / bytes),
                                          number(tensor.shape.channel_stride / bytes)};
  auto* first = static_cast<std::byte*>(data.get()) + tensor.storage_offset * bytes;
  auto owner = std::make_shared<at::DataPtr>(std::move(data));
  return at::from_blob(
      first, sizes, strides, [owner](void*) {}, at::TensorOptions().dtype(scalar_of(dtype)));
}

}  // namespace

Result<std::unique_ptr<CacheSource>> read_with_torch(const ByteSource& source, const PtCache& cache,
                                                     CacheFacts facts) {
  return guarded([&]() -> Result<std::unique_ptr<CacheSource>> {
    caffe2::serialize::PyTorchStreamReader reader(std::make_shared<SourceAdapter>(source));
    std::vector<LayerTensors> layers;
    for (std::size_t i = 0; i < cache.shapes.size(); ++i) {
      const LayerShape& shape = cache.shapes[i];
      layers.push_back({load_tensor(reader, cache.keys[i], shape.key_dtype),
                        load_tensor(reader, cache.values[i], shape.value_dtype), shape.first_token,
                        shape.window});
    }
    return tensor_source(std::move(layers), std::move(facts));
  });
}

namespace {

at::Tensor integers(const std::vector<std::int32_t>& numbers) {
  at::Tensor tensor =
      at::empty({static_cast<std::int64_t>(numbers.size())}, at::TensorOptions().dtype(at::kLong));
  std::copy(numbers.begin(), numbers.end(), tensor.data_ptr<std::int64_t>());
  return tensor;
}

}  // namespace

Result<PtWriteReport> write_with_torch(const CardReader& card, ByteSink& sink,
                                       const PtWriteOptions& options) {
  return guarded([&]() -> Result<PtWriteReport> {
    TensorOptions tensor_options;
    if (options.dtype) tensor_options.dtype = scalar_of(*options.dtype);
    tensor_options.pairing = options.decode.pairing;
    tensor_options.parallel = options.decode.parallel;
    auto layers = read_tensors(card, tensor_options);
    if (!layers) return layers.error();
    auto facts = pt_facts_of(card, options.decode);
    if (!facts) return facts.error();
    c10::impl::GenericDict dict(c10::StringType::get(), c10::AnyType::get());
    c10::List<at::Tensor> keys;
    c10::List<at::Tensor> values;
    c10::List<std::int64_t> first_token;
    c10::List<std::int64_t> window;
    for (const LayerTensors& layer : *layers) {
      keys.push_back(layer.key);
      values.push_back(layer.value);
      first_token.push_back(static_cast<std::int64_t>(layer.first_token.value_or(0)));
      window.push_back(layer.window);
    }
    dict.insert("key_cache", keys);
    dict.insert("value_cache", values);
    if (!facts->token_ids.empty()) dict.insert("token_ids", integers(facts->token_ids));
    dict.insert("positions", integers(facts->positions));
    dict.insert("first_token", first_token);
    dict.insert("window", window);
    dict.insert("rope_state", std::string(name_of(facts->rope_state)));
    dict.insert("rope_pairing", std::string(name_of(facts->rope_pairing)));
    const std::vector<char> bytes = torch::jit::pickle_save(dict);
    if (Status s = sink.write(std::as_bytes(std::span(bytes))); !s) return s.error();
    return PtWriteReport{bytes.size(), facts->positions.size()};
  });
}

}  // namespace cachecard::pytorch
