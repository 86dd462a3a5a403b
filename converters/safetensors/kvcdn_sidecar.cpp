#include <nlohmann/json.hpp>

#include "safetensors_file.hpp"
#include "tensor_writer.hpp"

namespace cachecard::safetensors {
namespace {

using Json = nlohmann::ordered_json;

/// Parsed, a number takes sixteen bytes for two of the file: this keeps it below 64 MB. Half a million
/// tokens.
constexpr std::uint64_t kMaxSidecarBytes = 4u << 20;

Status check_count(const Json& json, const char* field, std::uint64_t found) {
  const auto at = json.find(field);
  if (at == json.end() || !at->is_number_unsigned() || at->get<std::uint64_t>() == found) return {};
  return tensors_error(field, "found " + at->dump() + ", the tensors have " + std::to_string(found));
}

Result<std::vector<std::int32_t>> tokens_of(const Json& json) {
  std::vector<std::int32_t> ids;
  const auto tokens = json.find("tokens");
  if (tokens == json.end() || tokens->is_null()) return ids;
  if (!tokens->is_array()) return tensors_error("tokens", "found no array");
  for (const Json& token : *tokens) {
    const std::uint64_t id = token.is_number_unsigned() ? token.get<std::uint64_t>() : ~std::uint64_t{0};
    if (id > 0x7FFFFFFF)
      return tensors_error("tokens",
                           "element " + std::to_string(ids.size()) + " is no token id (0 to 2147483647)");
    ids.push_back(static_cast<std::int32_t>(id));
  }
  return ids;
}

}  // namespace

Result<std::string> kvcdn_sidecar(const CardReader& card, const TensorWriteReport& written) {
  const CardHeader& header = card.header();
  Json json = {{"model_name", header.identity.text(IdentityField::kModelName).value_or("unknown")},
               {"num_layers", header.layer_count},
               {"num_tokens", header.token_count},
               {"dtype", written.dtype},
               {"storage_dtype", written.dtype},
               {"nbytes", written.file_size},
               {"quantized", false}};
  if (const auto frame = card.find(SectionType::kText, 0); frame && header.segments.size() == 1) {
    auto text = card.read_section(*frame);
    if (!text) return text.error();
    json["prompt"] = std::string(reinterpret_cast<const char*>(text->data()), text->size());
  }
  if ((header.flags & kHeaderTokensUnknown) == 0) {
    auto ids = card.token_ids();
    if (!ids) return ids.error();
    json["tokens"] = *ids;
  }
  return json.dump(2) + "\n";
}

Result<KvcdnSidecar> read_kvcdn_sidecar(const ByteSource& source, const pytorch::PtCache& tensors) {
  if (source.size() > kMaxSidecarBytes) {
    return Error{
        ErrorCode::kLimitExceeded, kNoOffset, "sidecar",
        "found " + std::to_string(source.size()) + " bytes, allowed " + std::to_string(kMaxSidecarBytes)};
  }
  std::string text(static_cast<std::size_t>(source.size()), '\0');
  if (Status s = source.read_at(0, std::as_writable_bytes(std::span(text))); !s) return s.error();
  const Json json = Json::parse(text, nullptr, false);
  if (!json.is_object()) return tensors_error("sidecar", "found no JSON object");
  if (json.value("quantized", Json(false)) == Json(true))
    return tensors_error("quantized", "found true, allowed false");
  if (Status s = check_count(json, "num_layers", tensors.shapes.size()); !s) return s.error();
  if (Status s = check_count(json, "num_tokens", tensors.shapes.front().token_count); !s) return s.error();
  auto ids = tokens_of(json);
  if (!ids) return ids.error();
  const auto words = [&json](const char* field) {
    const auto at = json.find(field);
    return at != json.end() && at->is_string() ? at->get<std::string>() : std::string();
  };
  KvcdnSidecar sidecar{words("model_name"), words("prompt"), std::move(*ids)};
  if (sidecar.model_name == "unknown") sidecar.model_name.clear();
  return sidecar;
}

}  // namespace cachecard::safetensors
