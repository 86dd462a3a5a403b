#include <algorithm>

#include "llama_cpp/cache_block.hpp"
#include "llama_live/live_context.hpp"

namespace cachecard::llama_live {
namespace {

using llama_cpp::ModelFacts;
using llama_cpp::StateTemplate;

Result<DType> cache_type(ggml_type type, const char* name) {
  const auto number = static_cast<std::int64_t>(type);
  const auto dtype = static_cast<DType>(number);
  const bool known = number >= 0 && number < 255 && dtype_info(dtype) != nullptr;
  if (known) return dtype;
  return Error{ErrorCode::kGeometryMismatch, kNoOffset, name,
               "ggml type " + std::to_string(type) + " is none that a card can hold"};
}

bool is_block(DType dtype) { return dtype_info(dtype)->block_elements > 1; }

Result<std::uint64_t> row_size(DType dtype, std::uint64_t elements, const char* name) {
  const DTypeInfo& info = *dtype_info(dtype);
  if (elements % info.block_elements == 0) return elements / info.block_elements * info.block_bytes;
  return Error{ErrorCode::kGeometryMismatch, kNoOffset, name,
               std::to_string(elements) + " values are no whole blocks of " + std::string(info.name)};
}

struct CacheTypes {
  DType key = DType::kF16;
  DType value = DType::kF16;
};

Status add_layers(const ModelFacts& facts, std::size_t index, CacheTypes types, bool rotates,
                  StateTemplate::Cache& cache) {
  const auto layers = llama_cpp::layers_of_cache(facts, index);
  for (const std::uint32_t layer : layers) {
    const std::uint64_t heads = facts.key_only ? 1 : facts.kv_head_count[layer];
    auto key = row_size(types.key, heads * facts.key_head_dim[layer], "type_k");
    if (!key) return key.error();
    cache.key_types.push_back(types.key);
    cache.key_row_bytes.push_back(*key);
    if (facts.key_only) continue;
    auto value = row_size(types.value, heads * facts.value_head_dim[layer], "type_v");
    if (!value) return value.error();
    cache.value_types.push_back(types.value);
    cache.value_row_bytes.push_back(*value);
  }
  if (!rotates) return {};
  if (is_block(types.key)) cache.n_rot_k = llama_cpp::rotation_of(facts.key_head_dim, layers, false);
  if (is_block(types.value) && !facts.key_only) {
    cache.n_rot_v = llama_cpp::rotation_of(facts.value_head_dim, layers, true);
  }
  return {};
}

}  // namespace

Result<StateTemplate> live_template(const LiveContext& live, const ModelFacts& facts, llama_seq_id sequence) {
  StateTemplate result;
  result.container = LlamaContainer::kSequenceMemory;
  result.layout = kLiveLayout;
  result.architecture = facts.architecture;
  if (facts.module == ModelFacts::Module::kOther) return result;
  auto key = cache_type(live.params.type_k, "type_k");
  if (!key) return key.error();
  auto value = cache_type(live.params.type_v, "type_v");
  if (!value) return value.error();
  StateTemplate::Cache base;
  base.n_stream = live.params.kv_unified ? 1 : std::max(live.params.n_seq_max, 1u);
  base.cell_ext = facts.cell_ext;
  // AUTO allocates as if flash attention were on. source: llama-context.cpp, constructor
  base.v_trans = live.params.flash_attn_type == LLAMA_FLASH_ATTN_TYPE_DISABLED;
  const std::size_t count = facts.module == ModelFacts::Module::kSlidingPair ? 2 : 1;
  for (std::size_t i = 0; i < count; ++i) {
    StateTemplate::Cache cache = base;
    auto status = add_layers(facts, i, {*key, *value}, !live.rotation_disabled, cache);
    if (!status) return status.error();
    result.caches.push_back(std::move(cache));
  }
  result.stream_index = base.n_stream > 1 ? static_cast<std::uint32_t>(sequence) : 0;
  return result;
}

}  // namespace cachecard::llama_live
