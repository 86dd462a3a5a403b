#include "state_report.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace cachecard::cli {
namespace {

using llama_cpp::CacheBlock;
using llama_cpp::StateFile;
using llama_cpp::StateLayout;
using llama_cpp::TensorBlock;

struct ContainerName {
  LlamaContainer container;
  std::string_view name;
};
constexpr std::array kContainers{ContainerName{LlamaContainer::kSessionFile, "session"},
                                 ContainerName{LlamaContainer::kWholeContext, "whole-context"},
                                 ContainerName{LlamaContainer::kSequenceFile, "sequence"},
                                 ContainerName{LlamaContainer::kSequenceMemory, "sequence-memory"}};

std::string types_of(const std::vector<TensorBlock>& tensors) {
  std::vector<std::string> names;
  for (const TensorBlock& tensor : tensors) {
    const std::string name(name_of(tensor.dtype));
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  }
  return joined(names);
}

std::uint64_t row_bytes_of(const std::vector<TensorBlock>& tensors) {
  std::uint64_t bytes = 0;
  for (const TensorBlock& tensor : tensors) bytes += tensor.row_bytes;
  return bytes;
}

std::string positions_of(const CacheBlock& cache) {
  if (cache.positions.empty()) return "none";
  const auto [low, high] = std::minmax_element(cache.positions.begin(), cache.positions.end());
  const bool ascending = std::is_sorted(cache.positions.begin(), cache.positions.end());
  return fmt::format("{} to {}{}", *low, *high, ascending ? "" : ", cells in another order");
}

Json cache_json(const CacheBlock& cache) {
  return {{"offset", cache.offset},
          {"size", cache.end_offset - cache.offset},
          {"n_stream", cache.n_stream},
          {"stream_index", cache.stream_index},
          {"cell_count", cache.cell_count},
          {"positions", positions_of(cache)},
          {"n_layer", cache.n_layer},
          {"v_trans", cache.v_trans},
          {"n_rot_k", cache.n_rot_k},
          {"n_rot_v", cache.n_rot_v},
          {"key_types", types_of(cache.keys)},
          {"value_types", types_of(cache.values)},
          {"bytes_per_cell", row_bytes_of(cache.keys) + row_bytes_of(cache.values)}};
}

std::string content_of(const StateFile& state) {
  if (state.opaque) return "opaque (kept whole)";
  return state.caches.size() > 1 ? "sliding-window pair" : "plain attention";
}

std::uint64_t trailing_bytes(const StateFile& state) { return state.file_size - state.payload_end; }

}  // namespace

std::string_view container_name(LlamaContainer container) {
  for (const ContainerName& row : kContainers) {
    if (row.container == container) return row.name;
  }
  return "unknown";
}

std::optional<LlamaContainer> container_by_name(std::string_view name) {
  for (const ContainerName& row : kContainers) {
    if (row.name == name) return row.container;
  }
  return std::nullopt;
}

std::vector<std::string> container_names() {
  std::vector<std::string> names;
  for (const ContainerName& row : kContainers) names.emplace_back(row.name);
  return names;
}

std::string_view layout_name(StateLayout layout) { return layout == StateLayout::k10_3 ? "10/3" : "11/4"; }

std::optional<StateLayout> layout_by_name(std::string_view name) {
  if (name == "10/3") return StateLayout::k10_3;
  if (name == "11/4") return StateLayout::k11_4;
  return std::nullopt;
}

std::string state_text(const StateFile& state) {
  Facts facts;
  facts.add("container", container_name(state.container));
  facts.add("layout", layout_name(state.layout));
  if (!state.architecture.empty()) facts.add("architecture", state.architecture);
  facts.add("file", exact_bytes(state.file_size));
  facts.add("tokens", state.token_ids.empty() ? "unknown" : grouped(state.token_ids.size()));
  facts.add("token list", state.server_blob ? "llama-server's" : "plain");
  facts.add("content", content_of(state));
  if (trailing_bytes(state) > 0) facts.add("trailing", exact_bytes(trailing_bytes(state)));
  std::vector<Json> caches;
  for (const CacheBlock& cache : state.caches) caches.push_back(cache_json(cache));
  std::string text = facts.text();
  if (!caches.empty()) {
    text += "\ncaches\n" + objects_table(caches, {"cell_count", "n_layer", "key_types"});
  }
  return text;
}

Json state_json(const StateFile& state) {
  Json caches = Json::array();
  for (const CacheBlock& cache : state.caches) caches.push_back(cache_json(cache));
  return {{"container", container_name(state.container)},
          {"layout", layout_name(state.layout)},
          {"version", state.version},
          {"architecture", state.architecture},
          {"file_bytes", state.file_size},
          {"token_count", state.token_ids.size()},
          {"server_token_list", state.server_blob},
          {"opaque", state.opaque},
          {"payload_offset", state.payload_offset},
          {"payload_end", state.payload_end},
          {"trailing_bytes", trailing_bytes(state)},
          {"caches", std::move(caches)}};
}

}  // namespace cachecard::cli
