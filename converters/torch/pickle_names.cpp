#include "pickle_names.hpp"

#include <array>

#include "pickle_values.hpp"

namespace cachecard::pytorch {
namespace {

struct Row {
  std::string_view name;
  PickleName meaning;
};

// source: torch.save of 1.13 to 2.x (torch/_utils.py, torch/serialization.py), torch::pickle_save
// (torch/csrc/jit/serialization/pickler.cpp), transformers 4.4x and 5.x (cache_utils.py)
constexpr std::array<Row, 21> kRows{{
    {"collections.OrderedDict", PickleName::kOrderedDict},
    {"torch._utils._rebuild_tensor_v2", PickleName::kRebuildTensor},
    {"torch.jit._pickle.restore_type_tag", PickleName::kKeepFirst},
    {"torch.jit._pickle.build_intlist", PickleName::kKeepList},
    {"torch.jit._pickle.build_tensorlist", PickleName::kKeepList},
    {"transformers.cache_utils.DynamicCache", PickleName::kCacheClass},
    {"transformers.cache_utils.DynamicLayer", PickleName::kCacheClass},
    {"transformers.cache_utils.DynamicSlidingWindowLayer", PickleName::kCacheClass},
    {"torch.device", PickleName::kInertCall},
    {"__builtin__.set", PickleName::kInertCall},
    {"builtins.set", PickleName::kInertCall},
    {"torch.float32", PickleName::kInertValue},
    {"torch.float16", PickleName::kInertValue},
    {"torch.bfloat16", PickleName::kInertValue},
    {"torch.float64", PickleName::kInertValue},
    {"torch.int64", PickleName::kInertValue},
    {"torch.int32", PickleName::kInertValue},
    {"torch.int16", PickleName::kInertValue},
    {"torch.int8", PickleName::kInertValue},
    {"torch.uint8", PickleName::kInertValue},
    {"torch.bool", PickleName::kInertValue},
}};

struct Reason {
  std::string_view part;  ///< of the name
  std::string_view text;
};

constexpr std::array<Reason, 9> kReasons{{
    {"Quant", "a quantised Hugging Face cache, whose values are packed: dequantise it first"},
    {"HQQ", "a quantised Hugging Face cache, whose values are packed: dequantise it first"},
    {"_rebuild_qtensor", "a quantised tensor: dequantise it first"},
    {"_rebuild_sparse", "a sparse tensor: make it dense first"},
    {"EncoderDecoderCache", "an encoder-decoder cache, which a card does not hold"},
    {"cache_utils.Static", "a static cache, whose tensors are longer than its tokens: cut them first"},
    {"cache_utils.Hybrid", "a static cache, whose tensors are longer than its tokens: cut them first"},
    {"cache_utils.SlidingWindowCache", "a static cache, whose rows are not in order: save its tensors"},
    {"__torch__", "a TorchScript class, which comes with code"},
}};

}  // namespace

PickleName find_pickle_name(std::string_view name) noexcept {
  for (const Row& row : kRows) {
    if (row.name == name) return row.meaning;
  }
  constexpr std::string_view kTorch = "torch.";
  if (name.starts_with(kTorch) && element_of_storage(name.substr(kTorch.size())) != nullptr) {
    return PickleName::kStorageType;
  }
  return PickleName::kRefused;
}

std::string refusal_of(std::string_view name) {
  for (const Reason& reason : kReasons) {
    if (name.find(reason.part) != std::string_view::npos) return ", " + std::string(reason.text);
  }
  return "; allowed are tensors and plain containers (nothing that the file names was run)";
}

}  // namespace cachecard::pytorch
