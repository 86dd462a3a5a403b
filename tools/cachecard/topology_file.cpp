#include "topology_file.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>

#include "input.hpp"
#include "line_json.hpp"
#include "span_file.hpp"

namespace cachecard::cli {
namespace {

constexpr std::uint64_t kMostFileBytes = 1u << 20;
constexpr std::size_t kMostAgents = 1000;

using Kind = LineJson::Kind;

class TopologyReader {
 public:
  explicit TopologyReader(const std::string& path) { file_.path = path; }
  Result<TopologyFile> read(const LineJson& root);
  Error wrong(std::size_t line, std::string_view detail) const {
    return usage_error(fmt::format("--topology {}, line {}: {}", input_name(file_.path), line, detail));
  }

 private:
  using Names = std::vector<std::string_view>;
  Status check_object(const LineJson& value, std::string_view what, const Names& allowed,
                      const Names& needed) const;
  Status read_text(const LineJson& object, std::string_view name, std::string& out) const;
  Status read_number(const LineJson& object, std::string_view name, double& out) const;
  Status read_path(const LineJson& object, std::string_view name, std::string& out) const;
  Status read_agent(const LineJson& value);
  Status read_link(const LineJson& value, double seconds);
  Status read_end(const LineJson& link, std::string_view name, std::size_t& agent) const;
  Status check() const;
  Status read_list(const LineJson& root, std::string_view name, const LineJson*& list) const;

  TopologyFile file_;
};

Status TopologyReader::check_object(const LineJson& value, std::string_view what, const Names& allowed,
                                    const Names& needed) const {
  if (value.kind != Kind::kObject)
    return wrong(value.line, fmt::format("found {}, allowed is {} as an object", value.noun(), what));
  for (const auto& [name, member] : value.members) {
    if (std::find(allowed.begin(), allowed.end(), name) != allowed.end()) continue;
    return wrong(member.line,
                 fmt::format("{} has no '{}', allowed are {}", what, name, fmt::join(allowed, ", ")));
  }
  for (const std::string_view name : needed) {
    if (value.find(name) == nullptr) return wrong(value.line, fmt::format("{} lacks '{}'", what, name));
  }
  return {};
}

Status TopologyReader::read_text(const LineJson& object, std::string_view name, std::string& out) const {
  const LineJson* value = object.find(name);
  if (value == nullptr) return {};
  if (value->kind != Kind::kText)
    return wrong(value->line, fmt::format("'{}': found {}, allowed is text", name, value->noun()));
  if (value->text.empty()) return wrong(value->line, fmt::format("'{}': found no text", name));
  out = value->text;
  return {};
}

Status TopologyReader::read_number(const LineJson& object, std::string_view name, double& out) const {
  const LineJson* value = object.find(name);
  if (value == nullptr) return {};
  if (value->kind != Kind::kNumber)
    return wrong(value->line, fmt::format("'{}': found {}, allowed is a number", name, value->noun()));
  out = value->number;
  return {};
}

Status TopologyReader::read_path(const LineJson& object, std::string_view name, std::string& out) const {
  std::string written;
  if (Status s = read_text(object, name, written); !s || written.empty()) return s;
  if (written.find('\0') != std::string::npos)
    return wrong(object.find(name)->line, fmt::format("'{}': no file is called so", name));
  const std::filesystem::path path(written);
  out = path.is_absolute() || file_.path == "-"
            ? written
            : (std::filesystem::path(file_.path).parent_path() / path).string();
  return {};
}

Status TopologyReader::read_agent(const LineJson& value) {
  if (Status s = check_object(value, "an agent", {"name", "role", "share", "weights", "probe", "probe_text"},
                              {"name"});
      !s)
    return s;
  Agent agent;
  AgentLook look;
  look.line = value.line;
  if (Status s = read_text(value, "name", agent.name); !s) return s;
  if (Status s = read_text(value, "role", look.role); !s) return s;
  if (Status s = read_number(value, "share", agent.share); !s) return s;
  if (Status s = read_path(value, "weights", look.weights); !s) return s;
  if (Status s = read_path(value, "probe", look.probe); !s) return s;
  if (Status s = read_text(value, "probe_text", look.probe_text); !s) return s;
  if ((look.weights.empty() ? 0 : 1) + (look.probe.empty() ? 0 : 1) + (look.probe_text.empty() ? 0 : 1) > 1) {
    return wrong(value.line,
                 fmt::format("agent '{}': 'weights', 'probe' and 'probe_text' say the same: give one of them",
                             agent.name));
  }
  file_.topology.agents.push_back(std::move(agent));
  file_.looks.push_back(std::move(look));
  return {};
}

Status TopologyReader::read_end(const LineJson& link, std::string_view name, std::size_t& agent) const {
  std::string called;
  if (Status s = read_text(link, name, called); !s) return s;
  const auto& agents = file_.topology.agents;
  const auto found =
      std::find_if(agents.begin(), agents.end(), [&](const Agent& one) { return one.name == called; });
  agent = static_cast<std::size_t>(found - agents.begin());
  if (found != agents.end()) return {};
  return wrong(link.find(name)->line, fmt::format("'{}': there is no agent '{}'", name, called));
}

Status TopologyReader::read_link(const LineJson& value, double seconds) {
  if (Status s =
          check_object(value, "a link", {"from", "to", "bandwidth", "seconds", "bytes"}, {"from", "to"});
      !s)
    return s;
  Link link;
  link.seconds = seconds;
  if (Status s = read_end(value, "from", link.from); !s) return s;
  if (Status s = read_end(value, "to", link.to); !s) return s;
  double bytes = 0.0;
  if (Status s = read_number(value, "bandwidth", link.bandwidth); !s) return s;
  if (Status s = read_number(value, "seconds", link.seconds); !s) return s;
  if (Status s = read_number(value, "bytes", bytes); !s) return s;
  for (const auto& [name, number] : {std::pair<const char*, double>{"bandwidth", link.bandwidth},
                                     {"seconds", link.seconds},
                                     {"bytes", bytes}}) {
    const LineJson* given = value.find(name);
    if (given == nullptr || (number > 0.0 && number < 0x1p62)) continue;
    return wrong(given->line, fmt::format("link {} -> {}, '{}': found {}, allowed are numbers above 0",
                                          file_.topology.agents[link.from].name,
                                          file_.topology.agents[link.to].name, name, number));
  }
  link.most_bytes = static_cast<std::uint64_t>(bytes);
  file_.topology.links.push_back(link);
  file_.link_lines.push_back(value.line);
  return {};
}

Status TopologyReader::read_list(const LineJson& root, std::string_view name, const LineJson*& list) const {
  list = root.find(name);
  if (list->kind != Kind::kArray)
    return wrong(list->line, fmt::format("'{}': found {}, allowed is a list", name, list->noun()));
  if (list->items.empty()) return wrong(list->line, fmt::format("'{}': the list is empty", name));
  if (list->items.size() <= kMostAgents) return {};
  return wrong(list->line,
               fmt::format("'{}': found {}, allowed are {}", name, list->items.size(), kMostAgents));
}

Status TopologyReader::check() const {
  const auto fault = find_fault(file_.topology);
  if (!fault) return {};
  return wrong(fault->of_link ? file_.link_lines[fault->number] : file_.looks[fault->number].line,
               fault->detail);
}

Result<TopologyFile> TopologyReader::read(const LineJson& root) {
  if (Status s = check_object(root, "a topology", {"agents", "links", "seconds"}, {"agents", "links"}); !s)
    return s.error();
  const LineJson* agents = nullptr;
  const LineJson* links = nullptr;
  if (Status s = read_list(root, "agents", agents); !s) return s.error();
  if (Status s = read_list(root, "links", links); !s) return s.error();
  double seconds = 1.0;
  if (Status s = read_number(root, "seconds", seconds); !s) return s.error();
  if (!(seconds > 0.0))
    return wrong(root.find("seconds")->line,
                 fmt::format("'seconds': found {}, allowed are numbers above 0", seconds));
  for (const LineJson& agent : agents->items) {
    if (Status s = read_agent(agent); !s) return s.error();
  }
  if (Status s = check(); !s) return s.error();  // before links look for agents by name
  for (const LineJson& link : links->items) {
    if (Status s = read_link(link, seconds); !s) return s.error();
  }
  if (Status s = check(); !s) return s.error();
  return std::move(file_);
}

}  // namespace

std::string TopologyFile::link_name(std::size_t link) const {
  return fmt::format("{} -> {}", topology.agents[topology.links[link].from].name,
                     topology.agents[topology.links[link].to].name);
}

Result<std::size_t> TopologyFile::find_link(const std::string& name) const {
  std::vector<std::string> names;
  for (const Link& link : topology.links) {
    names.push_back(topology.agents[link.from].name + ":" + topology.agents[link.to].name);
    if (names.back() == name) return names.size() - 1;
  }
  return usage_error(
      fmt::format("--link {}: {} has no such link, but {}", name, input_name(path), fmt::join(names, ", ")));
}

Result<TopologyFile> read_topology(const std::string& path) {
  const auto wrong = [&](Error error) {
    error.detail = fmt::format("--topology {}: {}", input_name(path), error.detail);
    return error;
  };
  auto input = open_input(path);
  if (!input) return wrong(input.error());
  const std::uint64_t size = (*input)->size();
  if (size > kMostFileBytes) {
    return wrong({ErrorCode::kLimitExceeded,
                  kNoOffset,
                  {},
                  fmt::format("found {} bytes, allowed {}", size, kMostFileBytes)});
  }
  std::string text(size, '\0');
  if (Status s = (*input)->read_at(0, std::as_writable_bytes(std::span(text))); !s) return wrong(s.error());
  auto root = parse_line_json(text);
  if (!root) return usage_error(fmt::format("--topology {}, {}", input_name(path), root.error().detail));
  return TopologyReader(path).read(*root);
}

}  // namespace cachecard::cli
