#include "tensor_writer.hpp"

#include <nlohmann/json.hpp>

#include "safetensors_file.hpp"

namespace cachecard::safetensors {
namespace {

using Json = nlohmann::ordered_json;

/// A tensor of the file: the stream that it comes from.
struct Tensor {
  std::string name;
  std::size_t stream = 0;
  DType dtype = DType::kF32;
  std::uint64_t size = 0;
};

std::string name_for(Naming naming, std::size_t layer, bool value) {
  if (naming == Naming::kKvcdn) return (value ? "v_" : "k_") + std::to_string(layer);
  return std::to_string(layer) + (value ? ".1" : ".0");
}

/// Neither kind of file says positions, or which tokens a layer holds: all of them, from 0 on.
Status check_places(const CardReader& card) {
  const CardHeader& header = card.header();
  for (const StreamRecord& stream : header.streams) {
    if (stream.first_token == 0 && stream.token_count == header.token_count) continue;
    return Error{ErrorCode::kNotRestorable, kNoOffset, "stream.token_count",
                 "layer " + std::to_string(stream.layer) + " holds " + std::to_string(stream.token_count) +
                     " of " + std::to_string(header.token_count) + " tokens, which these files cannot say"};
  }
  auto runs = card.positions();
  if (!runs) return runs.error();
  const auto positions = expand_positions(*runs);
  for (std::size_t i = 0; i < positions.size(); ++i) {
    if (positions[i] == static_cast<std::int64_t>(i)) continue;
    return Error{ErrorCode::kNotRestorable, kNoOffset, "positions",
                 "token " + std::to_string(i) + " has position " + std::to_string(positions[i]) +
                     ": these files cannot say it, theirs are 0, 1, 2, ..."};
  }
  return {};
}

Result<std::vector<Tensor>> plan(const CardReader& card, const TensorWriteOptions& options) {
  const CardHeader& header = card.header();
  auto layers = pytorch::card_layers(header);
  if (!layers) return layers.error();
  if (header.token_count == 0)
    return Error{ErrorCode::kPartialCard, kNoOffset, "header.token_count", "the card has no tokens"};
  if (Status s = check_places(card); !s) return s.error();
  std::vector<Tensor> tensors;
  for (std::size_t i = 0; i < layers->size(); ++i) {
    for (const bool value : {false, true}) {
      Tensor tensor;
      tensor.name = name_for(options.naming, i, value);
      tensor.stream = value ? (*layers)[i].value : (*layers)[i].key;
      const StreamRecord& stream = header.streams[tensor.stream];
      tensor.dtype = options.dtype.value_or(pytorch::float_type_of(stream));
      tensor.size = stream.token_count * row_elements(stream) * dtype_info(tensor.dtype)->block_bytes;
      tensors.push_back(std::move(tensor));
    }
  }
  return tensors;
}

/// As save_prompt_cache of mlx-lm 0.32 has it: the user's metadata, classes, which tensors are plain numbers.
Json mlx_metadata(const CardHeader& header) {
  Json metadata = Json::object();
  if (const auto name = header.identity.text(IdentityField::kModelName)) metadata["0.model"] = *name;
  for (std::uint32_t i = 0; i < header.layer_count; ++i) metadata["1." + std::to_string(i)] = "KVCache";
  metadata["2.0"] = "";
  for (std::uint32_t i = 0; i < header.layer_count; ++i) {
    metadata["2." + std::to_string(i + 1) + ".0"] = std::to_string(i) + ".2";
    metadata["2." + std::to_string(i + 1) + ".1"] = "scalar";
  }
  return metadata;
}

std::string header_text(const CardHeader& header, const std::vector<Tensor>& tensors, Naming naming) {
  Json json = Json::object();
  if (naming == Naming::kMlx) json["__metadata__"] = mlx_metadata(header);
  std::uint64_t offset = 0;
  for (const Tensor& tensor : tensors) {
    const StreamRecord& stream = header.streams[tensor.stream];
    json[tensor.name] = {{"dtype", name_of_dtype(tensor.dtype)},
                         {"shape", {1, stream.kv_head_count, stream.token_count, stream.head_dim}},
                         {"data_offsets", {offset, offset + tensor.size}}};
    offset += tensor.size;
  }
  for (std::uint32_t i = 0; naming == Naming::kMlx && i < header.layer_count; ++i) {
    json[std::to_string(i) + ".2"] = {
        {"dtype", "I32"}, {"shape", Json::array()}, {"data_offsets", {offset, offset + 4}}};
    offset += 4;
  }
  std::string text = json.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  return text;
}

/// One stream as its tensor has it: [head][token][channel].
Result<std::vector<std::byte>> decode(const CardReader& card, const Tensor& tensor,
                                      const pytorch::DecodeOptions& options) {
  const StreamRecord& stream = card.header().streams[tensor.stream];
  std::vector<std::byte> bytes(tensor.size);
  DecodeTarget target;
  target.base = bytes.data();
  target.dtype = tensor.dtype;
  target.channel_stride = dtype_info(tensor.dtype)->block_bytes;
  target.token_stride = target.channel_stride * stream.head_dim;
  target.head_stride = target.token_stride * static_cast<std::int64_t>(stream.token_count);
  if (Status s = pytorch::decode_stream(card, tensor.stream, target, options); !s) return s.error();
  return bytes;
}

}  // namespace

Result<TensorWriteReport> write_safetensors(const CardReader& card, ByteSink& sink,
                                            const TensorWriteOptions& options) {
  auto tensors = plan(card, options);
  if (!tensors) return tensors.error();
  const std::string text = header_text(card.header(), *tensors, options.naming);
  const std::uint64_t text_size = text.size();
  if (Status s = sink.write(std::as_bytes(std::span(&text_size, 1))); !s) return s.error();
  if (Status s = sink.write(std::as_bytes(std::span(text))); !s) return s.error();
  std::uint64_t total = 0;
  std::uint64_t done = 0;
  for (const Tensor& tensor : *tensors) total += tensor.size;
  for (const Tensor& tensor : *tensors) {
    auto bytes = decode(card, tensor, options.decode);
    if (!bytes) return bytes.error();
    if (Status s = sink.write(*bytes); !s) return s.error();
    done += tensor.size;
    if (options.progress && !options.progress(done, total)) {
      return Error{ErrorCode::kInterrupted, kNoOffset, {}, "stopped while writing tensors"};
    }
  }
  const std::vector<std::int32_t> held(options.naming == Naming::kMlx ? card.header().layer_count : 0,
                                       static_cast<std::int32_t>(card.header().token_count));
  if (Status s = sink.write(std::as_bytes(std::span(held))); !s) return s.error();
  return TensorWriteReport{sizeof(text_size) + text_size + total + held.size() * sizeof(held[0]),
                           std::string(name_of_dtype(tensors->front().dtype))};
}

}  // namespace cachecard::safetensors
