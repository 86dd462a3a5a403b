#include "architectures.hpp"

namespace cachecard::llama_cpp {
namespace {

using R = RopeType;
using M = MemoryRule;
using L = RopeLayers;

// source: llama.cpp v0.6.0, llama_model_rope_type() and create_memory() in llama-model.cpp,
// load_arch_hparams() and the graphs in src/models. Names that need another memory (recurrent,
// hybrid, DSA, MSA, encoder-decoder, drafts, embeddings) are left out: they stay opaque.
constexpr Architecture kArchitectures[] = {
    // No rotary embedding.
    {"bloom", R::kNone, M::kPlain},
    {"gpt2", R::kNone, M::kPlain},
    {"jais", R::kNone, M::kPlain},
    {"mpt", R::kNone, M::kPlain},
    {"refact", R::kNone, M::kPlain},
    // Pairs of neighbours.
    {"arcee", R::kNorm, M::kPlain},
    {"arctic", R::kNorm, M::kPlain},
    {"baichuan", R::kNorm, M::kPlain},
    {"bailingmoe", R::kNorm, M::kPlain},
    {"chameleon", R::kNorm, M::kPlain},
    {"chatglm", R::kNorm, M::kPlain},
    {"cohere2", R::kNorm, M::kSliding, L::kSlidingOnly, {.pattern = 4}},
    {"command-r", R::kNorm, M::kPlain},
    {"deci", R::kNorm, M::kPlain},
    {"deepseek", R::kNorm, M::kPlain},
    {"deepseek2", R::kNorm, M::kPlain, L::kAll, {}, true},
    {"ernie4_5", R::kNorm, M::kPlain},
    {"ernie4_5-moe", R::kNorm, M::kPlain},
    {"glm4", R::kNormOrMrope, M::kPlain},
    {"granite", R::kNorm, M::kPlain, L::kUnlessFinetunedFalse},
    {"granitemoe", R::kNorm, M::kPlain, L::kUnlessFinetunedFalse},
    {"internlm2", R::kNorm, M::kPlain},
    {"llama", R::kNorm, M::kPlain},
    {"llama4",
     R::kNorm,
     M::kSliding,
     L::kNotEveryFourth,
     {.pattern = 4, .default_window = 8192, .fixed_window = 8192}},
    {"maincoder", R::kNorm, M::kPlain},
    {"minicpm", R::kNorm, M::kPlain},
    {"mistral3", R::kNorm, M::kPlain},
    {"olmo", R::kNorm, M::kPlain},
    {"plm", R::kNorm, M::kPlain, L::kAll, {}, true},
    {"smollm3", R::kNorm, M::kPlain, L::kNotEveryFourth},
    {"starcoder", R::kNorm, M::kPlain},
    {"xverse", R::kNorm, M::kPlain},
    // Pairs half the rotated width apart.
    {"afmoe", R::kNeox, M::kSliding, L::kNotEveryFourth, {.pattern = 4}},
    {"apertus", R::kNeox, M::kPlain},
    {"bailingmoe2", R::kNeox, M::kPlain},
    {"bitnet", R::kNeox, M::kPlain},
    {"codeshell", R::kNeox, M::kPlain},
    {"dbrx", R::kNeox, M::kPlain},
    {"dots1", R::kNeox, M::kPlain},
    {"exaone", R::kNeox, M::kPlain},
    {"exaone4",
     R::kNeox,
     M::kSliding,
     L::kSlidingOnly,
     {.pattern = 4, .default_window = 4096, .only_layer_count = 64}},
    {"falcon", R::kNeox, M::kPlain},
    {"gemma", R::kNeox, M::kPlain},
    {"gemma2", R::kNeox, M::kSliding, L::kAll, {.pattern = 2, .default_window = 4096}},
    {"gemma3", R::kNeox, M::kSliding, L::kAll, {.pattern = 6, .window_base_is_base = false}},
    {"gemma3n",
     R::kNeox,
     M::kSliding,
     L::kAll,
     {.pattern = 5, .window_base_is_base = false, .cached_layers = 20}},
    {"gemma4", R::kNeox, M::kSliding, L::kAll, {.window_base_is_base = false}},
    {"glm4moe", R::kNeoxOrMrope, M::kPlain},
    {"gpt-oss", R::kNeox, M::kSliding, L::kAll, {.pattern = 2}},
    {"gptneox", R::kNeox, M::kPlain},
    {"grok", R::kNeox, M::kPlain},
    {"grovemoe", R::kNeox, M::kPlain},
    {"hunyuan-dense", R::kNeox, M::kPlain},
    {"hunyuan-moe", R::kNeox, M::kPlain},
    {"hunyuan_vl", R::kNeoxOrMrope, M::kPlain},
    {"jais2", R::kNeox, M::kPlain},
    {"mellum", R::kNeox, M::kSliding, L::kAll, {.pattern = 4}},
    {"mimo2", R::kNeox, M::kSliding, L::kAll, {.window_base_is_base = false}},
    {"minicpm3", R::kNeox, M::kPlain, L::kAll, {}, true},
    {"minimax-m2", R::kNeox, M::kPlain},
    {"nemotron", R::kNeox, M::kPlain},
    {"olmo2", R::kNeox, M::kSliding, L::kAll, {.pattern = 4}},
    {"olmoe", R::kNeox, M::kPlain},
    {"openelm", R::kNeox, M::kPlain},
    {"orion", R::kNeox, M::kPlain},
    {"pangu-embedded", R::kNeox, M::kPlain},
    {"phi2", R::kNeox, M::kPlain},
    {"phi3", R::kNeox, M::kPlain},
    {"phimoe", R::kNeox, M::kPlain},
    {"plamo", R::kNeox, M::kPlain},
    {"plamo3", R::kNeox, M::kSliding, L::kAll, {.pattern = 8, .window_base_is_base = false}},
    {"qwen", R::kNeox, M::kPlain},
    {"qwen2", R::kNeox, M::kPlain},
    {"qwen2moe", R::kNeox, M::kPlain},
    {"qwen3", R::kNeox, M::kPlain},
    {"qwen3moe", R::kNeox, M::kPlain},
    {"seed_oss", R::kNeox, M::kPlain},
    {"smallthinker",
     R::kNeox,
     M::kSliding,
     L::kNotEveryFourthFrom0,
     {.pattern = 4, .full_first = true, .fixed_window = 4096}},
    {"stablelm", R::kNeox, M::kPlain},
    {"starcoder2", R::kNeox, M::kPlain},
    // Positions of several dimensions: 12 more bytes a cell.
    {"paddleocr", R::kMrope, M::kPlain},
    {"qwen2vl", R::kMrope, M::kPlain},
    {"qwen3vl", R::kImrope, M::kPlain},
    {"qwen3vlmoe", R::kImrope, M::kPlain},
};

}  // namespace

const Architecture* find_architecture(std::string_view name) noexcept {
  for (const auto& architecture : kArchitectures) {
    if (architecture.name == name) return &architecture;
  }
  return nullptr;
}

std::string_view rope_type_name(RopeType type) noexcept {
  switch (type) {
    case RopeType::kNone:
      return "none";
    case RopeType::kNorm:
      return "norm";
    case RopeType::kNeox:
      return "neox";
    case RopeType::kMrope:
      return "mrope";
    case RopeType::kImrope:
      return "imrope";
    default:
      return "unknown";
  }
}

}  // namespace cachecard::llama_cpp
