#include "model_rope.hpp"

#include <algorithm>
#include <array>
#include <cmath>

namespace cachecard::llama_cpp {
namespace {

/// source: llama-hparams.cpp use_mrope
Result<bool> has_sections(const ByteSource& source, const GgufFile& file, const std::string& key) {
  const auto found = file.keys.find(key);
  if (found == file.keys.end()) return false;
  const auto* array = std::get_if<GgufArray>(&found->second);
  if (array == nullptr || array->count < 2 || array->size / array->count != 4) return false;
  std::array<std::int32_t, 2> sections{};
  auto status = source.read_at(array->offset, std::as_writable_bytes(std::span(sections)));
  if (!status) return status.error();
  return sections[0] > 0 && sections[1] > 0;
}

Result<RopeType> resolve(const ByteSource& source, const GgufFile& file, RopeType type,
                         const std::string& prefix) {
  if (type != RopeType::kNormOrMrope && type != RopeType::kNeoxOrMrope) return type;
  auto sections = has_sections(source, file, prefix + "rope.dimension_sections");
  if (!sections) return sections.error();
  if (*sections) return RopeType::kMrope;
  return type == RopeType::kNormOrMrope ? RopeType::kNorm : RopeType::kNeox;
}

RopePairing pairing_of(RopeType type) {
  if (type == RopeType::kNorm) return RopePairing::kInterleaved;
  if (type == RopeType::kNeox) return RopePairing::kHalfSplit;
  return RopePairing::kNone;
}

bool layer_rotates(const Architecture& architecture, const GgufFile& file, const ModelFacts& facts,
                   std::uint32_t layer) {
  switch (architecture.rope_layers) {
    case RopeLayers::kAll:
      return true;
    case RopeLayers::kNotEveryFourth:
      return (layer + 1) % 4 != 0;
    case RopeLayers::kNotEveryFourthFrom0:
      return facts.sliding_window == 0 || layer % 4 != 0;
    case RopeLayers::kSlidingOnly:
      return facts.sliding_window == 0 || facts.layer_is_sliding[layer] != 0;
    case RopeLayers::kUnlessFinetunedFalse: {
      const auto key = file.keys.find(facts.architecture + ".rope.scaling.finetuned");
      const bool* value = key == file.keys.end() ? nullptr : std::get_if<bool>(&key->second);
      return value == nullptr || *value;
    }
  }
  return true;
}

/// Divisors of the frequencies (Llama 3), ones where the file has none. nullopt: not understood.
Result<std::optional<std::vector<float>>> read_factors(const ByteSource& source, const GgufFile& file,
                                                       std::size_t count) {
  using Factors = std::optional<std::vector<float>>;
  std::vector<float> factors(count, 1.0f);
  for (const auto& tensor : file.tensors) {
    const bool long_rope = tensor.name.starts_with("rope_factors_");
    const bool by_layer = tensor.name.ends_with(".rope_freqs.weight");
    if (long_rope || by_layer) return Factors();
    if (tensor.name != "rope_freqs.weight") continue;
    if (tensor.type != 0 || tensor.size != count * sizeof(float)) return Factors();
    auto status = source.read_at(tensor.offset, std::as_writable_bytes(std::span(factors)));
    if (!status) return status.error();
  }
  const auto usable = [](float factor) { return std::isfinite(factor) && factor > 0.0f; };
  if (!std::all_of(factors.begin(), factors.end(), usable)) return Factors();
  return Factors(std::move(factors));
}

/// Whether layers with a window and those without use the same frequencies.
bool one_frequency_set(const Architecture& architecture, const GgufFile& file, const std::string& prefix,
                       const ModelFacts& facts, double base, double factor) {
  if (facts.module != ModelFacts::Module::kSlidingPair) return true;
  if (architecture.rope_layers == RopeLayers::kSlidingOnly) return false;
  if (factor != 1.0 || file.keys.contains(prefix + "rope.dimension_count_swa")) return false;
  const double fallback = architecture.sliding.window_base_is_base ? base : 10000.0;
  return file.f64(prefix + "rope.freq_base_swa").value_or(fallback) == base;
}

Status set_rope_table(const ByteSource& source, const GgufFile& file, const Architecture& architecture,
                      const std::string& prefix, ModelFacts& facts) {
  const double base = file.f64(prefix + "rope.freq_base").value_or(10000.0);
  double factor =
      file.f64(prefix + "rope.scaling.factor").value_or(file.f64(prefix + "rope.scale_linear").value_or(0.0));
  if (factor == 0.0) factor = 1.0;
  const std::string scaling = file.text(prefix + "rope.scaling.type").value_or("linear");
  const bool plain = scaling == "none" || scaling == "linear";
  const bool magnitude = file.f64(prefix + "rope.scaling.attn_factor").value_or(1.0) == 1.0;
  const std::uint32_t width = facts.rope_dimension_count;
  const bool usable = plain && magnitude && base > 0.0 && factor > 0.0 && width % 2 == 0 &&
                      facts.module != ModelFacts::Module::kOther &&
                      one_frequency_set(architecture, file, prefix, facts, base, factor);
  if (!usable) return {};
  auto factors = read_factors(source, file, width / 2);
  if (!factors) return factors.error();
  if (!*factors) return {};
  RopeTable table;
  table.record.pairing = static_cast<std::uint8_t>(facts.rope_pairing);
  table.record.rotated_offset = facts.rotated_offset;
  table.record.rotated_width = width;
  table.record.pair_count = width / 2;
  const double scale = scaling == "linear" ? 1.0 / factor : 1.0;
  for (std::uint32_t i = 0; i < width / 2; ++i) {
    const double frequency = std::pow(base, -2.0 * i / width) * scale;
    table.inverse_frequencies.push_back(frequency / static_cast<double>((**factors)[i]));
  }
  facts.rope_table = std::move(table);
  return {};
}

}  // namespace

Result<RopeType> set_rope_facts(const ByteSource& source, const GgufFile& file,
                                const Architecture& architecture, ModelFacts& facts) {
  const std::string prefix = facts.architecture + ".";
  auto type = resolve(source, file, architecture.rope, prefix);
  if (!type) return type;
  facts.cell_ext = *type == RopeType::kMrope || *type == RopeType::kImrope;
  facts.layer_has_rope.assign(facts.layer_count, 0);
  const std::uint32_t head_dim = facts.key_head_dim.empty() ? 0 : facts.key_head_dim[0];
  const std::uint64_t rotated = file.u64(prefix + "rope.dimension_count").value_or(head_dim);
  if (*type == RopeType::kNone || rotated == 0 || rotated > head_dim) return type;
  facts.rope_dimension_count = static_cast<std::uint32_t>(rotated);
  facts.rope_pairing = pairing_of(*type);
  if (architecture.rotated_last) facts.rotated_offset = head_dim - facts.rope_dimension_count;
  for (std::uint32_t i = 0; i < facts.layer_count; ++i) {
    facts.layer_has_rope[i] = layer_rotates(architecture, file, facts, i);
  }
  if (facts.rope_pairing == RopePairing::kNone) return type;
  auto status = set_rope_table(source, file, architecture, prefix, facts);
  if (!status) return status.error();
  return type;
}

}  // namespace cachecard::llama_cpp
