// What a .pt does not say, from the model's GGUF file or from flags.

#include <fmt/format.h>

#include "llama_cpp/architectures.hpp"
#include "model_flags.hpp"
#include "token_file.hpp"
#include "torch/rope_order.hpp"
#include "torch_flags.hpp"

namespace cachecard::cli {
namespace {

using llama_cpp::ModelFacts;
using pytorch::CacheFacts;
using pytorch::LayerShape;
using pytorch::PtCache;

Error usage_error(std::string detail) {
  return {ErrorCode::kInvalidArgument, kNoOffset, {}, std::move(detail)};
}

Error fit_error(std::string field, std::string detail) {
  return {ErrorCode::kForeignInput, kNoOffset, std::move(field), std::move(detail)};
}

std::uint32_t at(const std::vector<std::uint32_t>& values, std::size_t layer) {
  return layer < values.size() ? values[layer] : 0;
}

Status check_layers(const ModelFacts& model, const PtCache& cache) {
  if (model.key_only) {
    return fit_error("cache",
                     fmt::format("caches of '{}' (MLA) do not cross: transformers holds expanded keys and "
                                 "values, llama.cpp the latent",
                                 model.architecture));
  }
  if (model.cell_ext) {
    return fit_error("positions",
                     fmt::format("'{}' has positions of several dimensions, which a .pt does not list",
                                 model.architecture));
  }
  if (model.layer_count != cache.shapes.size()) {
    return fit_error("layers",
                     fmt::format("found {}, the model has {}", cache.shapes.size(), model.layer_count));
  }
  for (std::size_t i = 0; i < cache.shapes.size(); ++i) {
    const LayerShape& shape = cache.shapes[i];
    const std::uint32_t heads = at(model.kv_head_count, i);
    const std::uint32_t key = at(model.key_head_dim, i);
    const std::uint32_t value = at(model.value_head_dim, i);
    if (shape.kv_head_count == heads && shape.key_head_dim == key && shape.value_head_dim == value) continue;
    return fit_error(
        fmt::format("layer {}", i),
        fmt::format("found {} heads of {} and {} channels, the model has {} of {} and {}",
                    shape.kv_head_count, shape.key_head_dim, shape.value_head_dim, heads, key, value));
  }
  return {};
}

Status set_windows(const ModelFacts& model, PtCache& cache) {
  for (std::size_t i = 0; i < cache.shapes.size(); ++i) {
    const bool slides = i < model.layer_is_sliding.size() && model.layer_is_sliding[i] != 0;
    const std::uint32_t window = slides ? model.sliding_window : 0;
    LayerShape& shape = cache.shapes[i];
    if (shape.window != 0 && shape.window != window) {
      return fit_error(fmt::format("layer {}", i),
                       fmt::format("found a window of {}, the model's is {}", shape.window, window));
    }
    shape.window = window;
  }
  return {};
}

/// Channel order of transformers' keys: by the model's architecture, unless the user knows better.
Result<RopePairing> model_pairing(const ModelFacts& model, const TorchFlags& flags) {
  if (const auto given = pairing_of(flags)) return *given;
  if (llama_cpp::find_architecture(model.architecture) != nullptr) {
    const auto known = pytorch::transformers_pairing(model.architecture, model.rope_pairing);
    if (known) return *known;
  }
  return usage_error(
      fmt::format("the order of RoPE pairs that transformers has for '{}' is not known here: give "
                  "--pairing half-split or interleaved",
                  model.architecture));
}

Status facts_of_model(const ModelFlags& model_flags, const TorchFlags& flags, PtCache& cache,
                      CacheFacts& facts) {
  auto model = model_facts(model_flags);
  if (!model) return model.error();
  if (Status s = check_layers(**model, cache); !s) return s;
  if (flags.sliding_window != 0)
    return usage_error("--sliding-window and --model exclude each other: the GGUF says it");
  if (Status s = set_windows(**model, cache); !s) return s;
  facts.identity = (*model)->identity;
  facts.layer_has_rope = (*model)->layer_has_rope;
  const bool unknown = llama_cpp::find_architecture((*model)->architecture) == nullptr;
  if ((*model)->rope_dimension_count == 0 && !unknown) return {};
  auto pairing = model_pairing(**model, flags);
  if (!pairing) return pairing.error();
  if (unknown) facts.layer_has_rope.clear();
  facts.rope_state = RopeState::kPostRope;
  facts.rope_pairing = *pairing;
  facts.rotated_offset = (*model)->rotated_offset;
  facts.rotated_width = (*model)->rope_dimension_count;
  facts.rope_table = (*model)->rope_table;
  if (facts.rope_table) facts.rope_table->record.pairing = static_cast<std::uint8_t>(*pairing);
  return {};
}

Status check_flag(const char* name, std::uint32_t given, std::uint64_t found) {
  if (given == 0 || given == found) return {};
  return fit_error(name, fmt::format("found {}, {} was given", found, given));
}

/// The geometry is in the tensors; flags that state it again are held to it.
Status facts_of_flags(const ModelFlags& model, const TorchFlags& flags, PtCache& cache, CacheFacts& facts) {
  const LayerShape& first = cache.shapes.front();
  if (Status s = check_flag("--layers", model.layers, cache.shapes.size()); !s) return s;
  if (Status s = check_flag("--kv-heads", model.kv_heads, first.kv_head_count); !s) return s;
  if (Status s = check_flag("--head-dim", model.head_dim, first.key_head_dim); !s) return s;
  if (Status s = check_flag("--value-head-dim", model.value_head_dim, first.value_head_dim); !s) return s;
  if (!flags.pairing.empty())
    return usage_error("--pairing goes with --model; without one, --rope says the order");
  std::uint64_t longest = 0;
  for (const LayerShape& shape : cache.shapes) longest = std::max(longest, shape.token_count);
  for (LayerShape& shape : cache.shapes) {
    if (flags.sliding_window != 0 && shape.token_count < longest) shape.window = flags.sliding_window;
  }
  if (!model.architecture.empty()) facts.identity.set_text(IdentityField::kArchitecture, model.architecture);
  if (model.rope.empty()) return {};
  if (model.rope == "none") {
    facts.rope_state = RopeState::kNone;
    return {};
  }
  facts.rope_state = RopeState::kPostRope;
  facts.rope_pairing = model.rope == "norm" ? RopePairing::kInterleaved : RopePairing::kHalfSplit;
  const std::uint32_t rotated = model.rope_dims != 0 ? model.rope_dims : first.key_head_dim;
  facts.identity.set_u64(IdentityField::kRopeDimensionCount, rotated);
  return {};
}

Status hold_to_file(const ModelFlags& model, const PtCache& cache, CacheFacts& facts) {
  const bool given = !model.model.empty() || !model.rope.empty();
  if (!cache.rope_state) {
    if (given) return {};
    return usage_error(
        "the file does not say its RoPE: give --model FILE.gguf, or --rope neox (pairs half the head apart, as "
        "most of "
        "transformers' models), norm (pairs adjacent) or none");
  }
  if (given && (facts.rope_state != *cache.rope_state || facts.rope_pairing != cache.rope_pairing)) {
    return fit_error("rope_pairing", fmt::format("the file says {} {}, the model or --rope {} {}",
                                                 name_of(*cache.rope_state), name_of(cache.rope_pairing),
                                                 name_of(facts.rope_state), name_of(facts.rope_pairing)));
  }
  facts.rope_state = *cache.rope_state;
  facts.rope_pairing = cache.rope_pairing;
  return {};
}

}  // namespace

Result<CacheFacts> torch_facts(const ModelFlags& model, const TorchFlags& flags, PtCache& cache) {
  CacheFacts facts;
  Status status = model.model.empty() ? facts_of_flags(model, flags, cache, facts)
                                      : facts_of_model(model, flags, cache, facts);
  if (!status) return status.error();
  if (Status s = hold_to_file(model, cache, facts); !s) return s.error();
  if (!model.source_id.empty()) facts.identity.set_text(IdentityField::kSourceId, model.source_id);
  if (!model.adapters.empty()) facts.identity.set_text(IdentityField::kAdapters, model.adapters);
  if (!flags.tokens.empty()) {
    auto ids = read_token_file(flags.tokens);
    if (!ids) return ids.error();
    facts.token_ids = std::move(*ids);
  }
  return facts;
}

}  // namespace cachecard::cli
