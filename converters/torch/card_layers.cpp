#include "card_layers.hpp"

#include <algorithm>

namespace cachecard::pytorch {

Result<std::vector<CardLayer>> card_layers(const CardHeader& header) {
  if ((header.flags & kHeaderPartialLayers) != 0) {
    return Error{ErrorCode::kPartialCard, kNoOffset, "header.flags", "the card lacks layers"};
  }
  std::vector<CardLayer> layers;
  for (const StreamRecord& stream : header.streams) {
    const auto kind = static_cast<StreamKind>(stream.stream);
    if (kind == StreamKind::kKey || kind == StreamKind::kValue) continue;
    return Error{
        ErrorCode::kGeometryMismatch, kNoOffset, "stream.stream",
        "layer " + std::to_string(stream.layer) + " is " + std::string(name_of(kind)) +
            (kind == StreamKind::kLatent ? " (MLA): transformers holds expanded keys and values instead"
                                         : ": tensors hold keys and values only")};
  }
  for (std::uint32_t layer = 0; layer < header.layer_count; ++layer) {
    const auto key = header.stream_index(layer, StreamKind::kKey);
    const auto value = header.stream_index(layer, StreamKind::kValue);
    if (!key || !value) {
      return Error{ErrorCode::kPartialCard, kNoOffset, "stream.layer",
                   "layer " + std::to_string(layer) + " has no " + (key ? "values" : "keys")};
    }
    const StreamRecord& k = header.streams[*key];
    const StreamRecord& v = header.streams[*value];
    if (k.first_token != v.first_token || k.token_count != v.token_count ||
        k.kv_head_count != v.kv_head_count) {
      return Error{ErrorCode::kGeometryMismatch, kNoOffset, "stream.token_count",
                   "layer " + std::to_string(layer) + " holds keys and values of different tokens or heads"};
    }
    layers.push_back({*key, *value});
  }
  return layers;
}

std::uint64_t held_tokens(const StreamRecord& stream, const DecodeOptions& options) {
  if (options.token_count <= stream.first_token) return 0;
  return std::min(stream.token_count, options.token_count - stream.first_token);
}

Status check_prefix(const CardHeader& header, const DecodeOptions& options) {
  if (options.token_count == DecodeOptions{}.token_count || options.token_count == header.token_count)
    return {};
  if (options.token_count > header.token_count) {
    return Error{ErrorCode::kInvalidArgument, kNoOffset, "token_count",
                 "found " + std::to_string(options.token_count) + ", the card has " +
                     std::to_string(header.token_count)};
  }
  const bool whole = header.restorable == Restorable::kWholeOnly;
  if (!whole && options.token_count >= header.restorable_from) return {};
  return Error{ErrorCode::kNotRestorable, kNoOffset, "token_count",
               "found " + std::to_string(options.token_count) + ", allowed from " +
                   std::to_string(whole ? header.token_count : header.restorable_from)};
}

Status decode_stream(const CardReader& card, std::size_t stream, const DecodeTarget& target,
                     const DecodeOptions& options) {
  const StreamRecord& record = card.header().streams[stream];
  const std::uint64_t count = held_tokens(record, options);
  if (count == 0) return {};
  DecodeRequest request{stream, record.first_token, count, false};
  request.rope_pairing = options.pairing.value_or(RopePairing::kNone);
  request.finite = options.finite;
  return card.decode(request, target, options.parallel);
}

DType float_type_of(const StreamRecord& stream) {
  const auto dtype = static_cast<DType>(stream.dtype);
  return dtype == DType::kF16 || dtype == DType::kBf16 ? dtype : DType::kF32;
}

}  // namespace cachecard::pytorch
