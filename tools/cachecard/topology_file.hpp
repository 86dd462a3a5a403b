#pragma once

#include <string>
#include <vector>

#include "cachecard/topology.hpp"

namespace cachecard::cli {

/// Where what an agent looks at comes from; all empty: what the context itself says.
struct AgentLook {
  std::string role;
  std::string weights;     ///< path of a .npy
  std::string probe;       ///< path of a text that the agent begins with
  std::string probe_text;  ///< that text itself
  std::size_t line = 0;    ///< of the agent

  bool has_probe() const { return !probe.empty() || !probe_text.empty(); }
};

/// A graph of agents as people write it. spec: spec/schemas/topology.schema.json
struct TopologyFile {
  std::string path;
  Topology topology;
  std::vector<AgentLook> looks;         ///< by agent
  std::vector<std::size_t> link_lines;  ///< by link

  /// "from -> to"
  std::string link_name(std::size_t link) const;
  /// The link that is called "from:to". Errors: invalid_argument naming those that there are
  Result<std::size_t> find_link(const std::string& name) const;
};

/// Reads and checks it. Files that it names are found from its own folder; they are not opened.
/// Errors: io; invalid_argument, "--topology PATH, line N: ..."
Result<TopologyFile> read_topology(const std::string& path);

}  // namespace cachecard::cli
