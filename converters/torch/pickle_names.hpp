#pragma once

#include <string>
#include <string_view>

namespace cachecard::pytorch {

/// What a name that a pickle may use stands for. Every other name is refused.
enum class PickleName : std::uint8_t {
  kRefused,
  kOrderedDict,    ///< called with (): an empty dict
  kRebuildTensor,  ///< torch._utils._rebuild_tensor_v2
  kStorageType,    ///< torch.HalfStorage and the like: only inside a persistent id
  kCacheClass,     ///< transformers' DynamicCache and its layers: a dict of attributes, by name
  kKeepFirst,      ///< torch.jit._pickle.restore_type_tag(value, type): the value
  kKeepList,       ///< torch.jit._pickle.build_intlist(list): the list
  kInertCall,      ///< torch.device(...), set([...]): kept as nothing
  kInertValue,     ///< torch.float16: kept as nothing
};

/// name: "module.attribute".
PickleName find_pickle_name(std::string_view name) noexcept;

/// Why a name is refused, to follow "names <name>": "a quantised cache ...", "which a cache ...".
std::string refusal_of(std::string_view name);

}  // namespace cachecard::pytorch
