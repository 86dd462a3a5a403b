#include "rope_order.hpp"

#include <algorithm>
#include <array>

namespace cachecard::pytorch {
namespace {

// source: llama.cpp convert_hf_to_gguf.py: classes whose q_proj and k_proj are permuted
constexpr std::array<std::string_view, 15> kPermuted{
    "arcee",     "arctic", "baichuan", "chameleon", "deci", "deepseek", "granite", "granitemoe",
    "internlm2", "llama",  "minicpm",  "mistral3",  "olmo", "smollm3",  "xverse"};
// source: transformers' modeling files: rotate_half over [..., 0::2], or complex numbers
constexpr std::array<std::string_view, 7> kInterleaved{"chatglm",      "cohere2", "command-r", "ernie4_5",
                                                       "ernie4_5-moe", "glm4",    "llama4"};

template <std::size_t kCount>
bool holds(const std::array<std::string_view, kCount>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace

std::optional<RopePairing> transformers_pairing(std::string_view architecture, RopePairing gguf_pairing) {
  if (gguf_pairing != RopePairing::kInterleaved) return gguf_pairing;
  if (holds(kPermuted, architecture)) return RopePairing::kHalfSplit;
  if (holds(kInterleaved, architecture)) return RopePairing::kInterleaved;
  return std::nullopt;
}

}  // namespace cachecard::pytorch
