#include "model_identity.hpp"

#include <algorithm>
#include <array>

#include "cachecard/digest.hpp"
#include "foreign_reader.hpp"
#include "ggml_types.hpp"

namespace cachecard::llama_cpp {
namespace {

// Ascending. What decides which ids a text becomes; padding and fill-in tokens do not.
constexpr std::array<std::string_view, 14> kTokenizerKeys{
    "tokenizer.ggml.add_bos_token",
    "tokenizer.ggml.add_eos_token",
    "tokenizer.ggml.add_sep_token",
    "tokenizer.ggml.add_space_prefix",
    "tokenizer.ggml.bos_token_id",
    "tokenizer.ggml.eos_token_id",
    "tokenizer.ggml.merges",
    "tokenizer.ggml.model",
    "tokenizer.ggml.pre",
    "tokenizer.ggml.precompiled_charsmap",
    "tokenizer.ggml.remove_extra_whitespaces",
    "tokenizer.ggml.scores",
    "tokenizer.ggml.token_type",
    "tokenizer.ggml.tokens",
};

template <class Number>
void update(Digester& digester, Number number) {
  digester.update(std::as_bytes(std::span(&number, 1)));
}

Status update_range(Digester& digester, const ByteSource& source, const GgufRange& range) {
  std::vector<std::byte> block(std::min<std::uint64_t>(range.size, 1u << 20));
  for (std::uint64_t done = 0; done < range.size;) {
    const auto count = static_cast<std::size_t>(std::min<std::uint64_t>(range.size - done, block.size()));
    auto status = source.read_at(range.offset + done, std::span(block).first(count));
    if (!status) return status;
    digester.update(std::span(block).first(count));
    done += count;
  }
  return {};
}

Status set_tokenizer(const ByteSource& source, const GgufFile& file, Identity& identity) {
  if (!file.ranges.contains("tokenizer.ggml.tokens")) return {};
  Digester digester;
  for (const std::string_view key : kTokenizerKeys) {
    const auto found = file.ranges.find(std::string(key));
    if (found == file.ranges.end()) continue;
    update(digester, static_cast<std::uint32_t>(key.size()));
    digester.update(std::as_bytes(std::span(key)));
    update(digester, found->second.type);
    auto status = update_range(digester, source, found->second);
    if (!status) return status;
  }
  identity.set_digest(IdentityField::kTokenizerDigest, digester.finish128());
  return {};
}

void set_text(Identity& identity, IdentityField field, const std::optional<std::string>& text) {
  if (text && !text->empty()) identity.set_text(field, *text);
}

/// The first declared address of this very model; else its organization and name. general.base_model
/// names the parent, whose weights differ, and is no source of this one.
void set_source(const GgufFile& file, Identity& identity) {
  for (const char* key : {"general.source.huggingface.repository", "general.source.repo_url",
                          "general.source.url", "general.repo_url", "general.url"}) {
    const auto address = file.text(key);
    if (!address || address->empty()) continue;
    identity.set_text(IdentityField::kSourceId, normalize_source(*address));
    return;
  }
  const auto organization = file.text("general.organization");
  const auto name = file.text("general.name");
  if (organization && name && !organization->empty() && !name->empty()) {
    identity.set_text(IdentityField::kSourceId, *organization + "/" + *name);
  }
}

void set_quantization(const GgufFile& file, Identity& identity) {
  if (const auto number = file.u64("general.file_type")) {
    const std::string_view name = file_type_name(*number);
    if (!name.empty()) {
      identity.set_text(IdentityField::kWeightsQuantization, name);
      return;
    }
  }
  std::map<std::uint32_t, std::uint64_t> bytes;  // by type; the lowest number wins a tie
  for (const auto& tensor : file.tensors) bytes[tensor.type] += tensor.size;
  const auto most = std::max_element(bytes.begin(), bytes.end(),
                                     [](const auto& a, const auto& b) { return a.second < b.second; });
  if (most == bytes.end()) return;
  if (const GgmlType* type = ggml_type(most->first)) {
    identity.set_text(IdentityField::kWeightsQuantization, type->name);
  }
}

void set_f64(Identity& identity, IdentityField field, const std::optional<double>& number) {
  if (number) identity.set_f64(field, *number);
}

/// One digest over the factor tensors that are there, in this order.
Status set_rope_factors(const ByteSource& source, const GgufFile& file, Identity& identity) {
  Digester digester;
  bool any = false;
  for (const char* name : {"rope_factors_long.weight", "rope_factors_short.weight", "rope_freqs.weight"}) {
    const auto tensor = std::find_if(file.tensors.begin(), file.tensors.end(),
                                     [&](const GgufTensor& t) { return t.name == name; });
    if (tensor == file.tensors.end()) continue;
    any = true;
    auto status = update_range(digester, source, {tensor->type, tensor->offset, tensor->size});
    if (!status) return status;
  }
  if (any) identity.set_digest(IdentityField::kRopeFactorsDigest, digester.finish128());
  return {};
}

Status set_rope(const ByteSource& source, const GgufFile& file, const std::string& prefix, RopeType rope_type,
                Identity& identity) {
  identity.set_text(IdentityField::kRopeType, rope_type_name(rope_type));
  if (rope_type == RopeType::kNone) return {};
  identity.set_f64(IdentityField::kRopeBase, file.f64(prefix + "rope.freq_base").value_or(10000.0));
  // source: llama-model.cpp load_hparams: no scaling type means linear, no factor means 1
  const double factor =
      file.f64(prefix + "rope.scaling.factor").value_or(file.f64(prefix + "rope.scale_linear").value_or(0.0));
  std::string scaling = file.text(prefix + "rope.scaling.type").value_or("linear");
  if (scaling == "linear" && (factor == 0.0 || factor == 1.0)) scaling = "none";
  identity.set_text(IdentityField::kRopeScaling, scaling);
  if (scaling != "none" && factor != 0.0) {
    identity.set_f64(IdentityField::kRopeScaleFactor, factor);
  }
  const std::string key = prefix + "rope.scaling.";
  if (const auto context = file.u64(key + "original_context_length")) {
    identity.set_u64(IdentityField::kRopeOriginalContext, *context);
  }
  set_f64(identity, IdentityField::kRopeExtrapolationFactor, file.f64(key + "yarn_ext_factor"));
  set_f64(identity, IdentityField::kRopeAttentionFactor, file.f64(key + "attn_factor"));
  set_f64(identity, IdentityField::kRopeBetaFast, file.f64(key + "yarn_beta_fast"));
  set_f64(identity, IdentityField::kRopeBetaSlow, file.f64(key + "yarn_beta_slow"));
  return set_rope_factors(source, file, identity);
}

}  // namespace

std::string normalize_source(std::string_view address) {
  for (const std::string_view host :
       {"https://huggingface.co/", "http://huggingface.co/", "https://hf.co/"}) {
    if (!address.starts_with(host)) continue;
    std::string_view path = address.substr(host.size());
    while (path.ends_with('/')) path.remove_suffix(1);
    const auto slash = path.find('/');
    if (slash == std::string_view::npos) return std::string(address);
    const auto end = path.find('/', slash + 1);
    std::string name(path.substr(0, end));
    constexpr std::string_view kTree = "/tree/";
    if (end != std::string_view::npos && path.substr(end).starts_with(kTree)) {
      const std::string_view revision = path.substr(end + kTree.size());
      if (!revision.empty() && revision != "main") name += "@" + std::string(revision);
    }
    return name;
  }
  return std::string(address);
}

Result<Identity> model_identity(const ByteSource& source, const GgufFile& file,
                                const Architecture* architecture, RopeType rope_type) {
  Identity identity;
  const std::string name = file.text("general.architecture").value_or("");
  set_text(identity, IdentityField::kArchitecture, name);
  identity.set_text(IdentityField::kWeightsContainer, "gguf");
  set_source(file, identity);
  set_quantization(file, identity);
  set_text(identity, IdentityField::kModelName, file.text("general.name"));
  const auto tokens = file.keys.find("tokenizer.ggml.tokens");
  const GgufArray* list = tokens == file.keys.end() ? nullptr : std::get_if<GgufArray>(&tokens->second);
  if (const auto size = file.u64(name + ".vocab_size")) {
    identity.set_u64(IdentityField::kVocabSize, *size);
  } else if (list != nullptr) {
    identity.set_u64(IdentityField::kVocabSize, list->count);
  }
  if (const auto text = file.text("tokenizer.chat_template")) {
    identity.set_digest(IdentityField::kTemplateDigest, digest128(std::as_bytes(std::span(*text))));
  }
  auto status = set_tokenizer(source, file, identity);
  if (!status) return status.error();
  if (architecture != nullptr) {
    status = set_rope(source, file, name + ".", rope_type, identity);
    if (!status) return status.error();
  }
  return identity;
}

}  // namespace cachecard::llama_cpp
