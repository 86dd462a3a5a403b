#pragma once

#include <optional>
#include <string>
#include <vector>

#include "llama_cpp/state_file.hpp"
#include "output.hpp"

namespace cachecard::cli {

/// session, whole-context, sequence, sequence-memory: as --container spells them.
std::string_view container_name(LlamaContainer container);
std::optional<LlamaContainer> container_by_name(std::string_view name);
std::vector<std::string> container_names();

/// 10/3, 11/4: as --layout spells them.
std::string_view layout_name(llama_cpp::StateLayout layout);
std::optional<llama_cpp::StateLayout> layout_by_name(std::string_view name);

/// What a llama.cpp state file says about itself.
std::string state_text(const llama_cpp::StateFile& state);
Json state_json(const llama_cpp::StateFile& state);

}  // namespace cachecard::cli
