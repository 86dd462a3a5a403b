#include "cachecard/topology.hpp"

#include <algorithm>
#include <cmath>
#include <set>
#include <span>

namespace cachecard {
namespace {

constexpr double kMostBytes = 0x1p62;

std::string number_text(double number) {
  std::string text = std::to_string(number);
  const bool plain = std::isfinite(number) && text.find('.') != std::string::npos;
  if (plain) text.erase(text.find_last_not_of('0') + 1);
  if (plain && text.back() == '.') text.pop_back();
  return text;
}

std::string link_name(const Topology& topology, const Link& link) {
  return topology.agents[link.from].name + " -> " + topology.agents[link.to].name;
}

std::optional<TopologyFault> agent_fault(const Topology& topology) {
  std::set<std::string_view> names;
  for (std::size_t a = 0; a < topology.agents.size(); ++a) {
    const Agent& agent = topology.agents[a];
    if (agent.name.empty()) return TopologyFault{false, a, "an agent without a name"};
    if (!names.insert(agent.name).second)
      return TopologyFault{false, a, "agent '" + agent.name + "' is there twice"};
    if (std::isfinite(agent.share) && agent.share >= 0.0) continue;
    return TopologyFault{false, a,
                         "agent '" + agent.name + "': found a share of " + number_text(agent.share) +
                             ", allowed are numbers from 0 on"};
  }
  return {};
}

/// Of one link by itself: what it lets pass.
std::string limit_fault(const Link& link) {
  const auto positive = [](double number) { return std::isfinite(number) && number > 0.0; };
  if (link.bandwidth != 0.0 && !positive(link.bandwidth)) {
    return "found a bandwidth of " + number_text(link.bandwidth) +
           " bytes a second, allowed are numbers above 0";
  }
  if (!positive(link.seconds))
    return "found " + number_text(link.seconds) + " seconds, allowed are numbers above 0";
  if (link.bandwidth == 0.0 && link.most_bytes == 0) return "it has neither a bandwidth nor a limit in bytes";
  if (link.bandwidth > 0.0 && link.bandwidth * link.seconds < 1.0) {
    return number_text(link.bandwidth) + " bytes a second let nothing pass in " + number_text(link.seconds) +
           " seconds";
  }
  return {};
}

std::optional<TopologyFault> link_fault(const Topology& topology) {
  std::set<std::pair<std::size_t, std::size_t>> pairs;
  for (std::size_t l = 0; l < topology.links.size(); ++l) {
    const Link& link = topology.links[l];
    const auto fault = [&](const std::string& detail) { return TopologyFault{true, l, detail}; };
    for (const std::size_t end : {link.from, link.to}) {
      if (end >= topology.agents.size()) return fault("agent " + std::to_string(end) + " is not there");
    }
    if (link.from == link.to)
      return fault("link " + link_name(topology, link) + ": it leads back to its sender");
    if (!pairs.insert({link.from, link.to}).second)
      return fault("link " + link_name(topology, link) + " is there twice");
    const std::string limit = limit_fault(link);
    if (!limit.empty()) return fault("link " + link_name(topology, link) + ": " + limit);
  }
  return {};
}

/// Links in an order in which every one comes behind those that bring its sender's card; short of some where
/// there is a cycle.
std::vector<std::size_t> ordered_links(const Topology& topology) {
  std::vector<std::size_t> waiting(topology.agents.size());
  for (const Link& link : topology.links) ++waiting[link.to];
  std::vector<std::size_t> ready;
  for (std::size_t a = 0; a < waiting.size(); ++a) {
    if (waiting[a] == 0) ready.push_back(a);
  }
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < ready.size(); ++i) {
    for (std::size_t l = 0; l < topology.links.size(); ++l) {
      if (topology.links[l].from != ready[i]) continue;
      order.push_back(l);
      if (--waiting[topology.links[l].to] == 0) ready.push_back(topology.links[l].to);
    }
  }
  return order;
}

std::optional<TopologyFault> cycle_fault(const Topology& topology) {
  const std::vector<std::size_t> order = ordered_links(topology);
  if (order.size() == topology.links.size()) return {};
  // Backwards along links that were left over: each of their senders has one of them leading to it, so that
  // the walk ends in a cycle.
  std::vector<bool> left(topology.links.size(), true);
  for (const std::size_t l : order) left[l] = false;
  std::vector<std::size_t> walk;
  std::vector<std::optional<std::size_t>> seen(topology.agents.size());
  std::size_t agent =
      topology.links[static_cast<std::size_t>(std::find(left.begin(), left.end(), true) - left.begin())].from;
  while (!seen[agent]) {
    seen[agent] = walk.size();
    std::size_t l = 0;
    while (!left[l] || topology.links[l].to != agent) ++l;
    walk.push_back(l);
    agent = topology.links[l].from;
  }
  std::vector<std::size_t> cycle(walk.begin() + static_cast<std::ptrdiff_t>(*seen[agent]), walk.end());
  std::reverse(cycle.begin(), cycle.end());
  // It reads from where the file begins it to the link that closes it.
  std::rotate(cycle.begin(), std::max_element(cycle.begin(), cycle.end()) + 1, cycle.end());
  std::string names = topology.agents[topology.links[cycle.front()].from].name;
  for (const std::size_t l : cycle) names += " -> " + topology.agents[topology.links[l].to].name;
  return TopologyFault{true, cycle.back(), "a cycle: " + names};
}

/// An agent and all that get a card from it or from those behind it.
std::vector<std::size_t> readers_behind(const Topology& topology, std::span<const std::size_t> order,
                                        std::size_t first) {
  std::vector<bool> reads(topology.agents.size());
  reads[first] = true;
  for (const std::size_t l : order) {
    if (reads[topology.links[l].from]) reads[topology.links[l].to] = true;
  }
  std::vector<std::size_t> readers;
  for (std::size_t a = 0; a < reads.size(); ++a) {
    if (reads[a]) readers.push_back(a);
  }
  return readers;
}

}  // namespace

std::optional<TopologyFault> find_fault(const Topology& topology) {
  if (auto fault = agent_fault(topology)) return fault;
  if (auto fault = link_fault(topology)) return fault;
  return cycle_fault(topology);
}

std::uint64_t link_budget(const Link& link) {
  double bytes = link.bandwidth > 0.0 ? link.bandwidth * link.seconds : kMostBytes;
  if (link.most_bytes > 0) bytes = std::min(bytes, static_cast<double>(link.most_bytes));
  return static_cast<std::uint64_t>(std::min(bytes, kMostBytes));
}

Result<std::vector<LinkPlan>> plan_links(const Topology& topology, const CacheSize& cache) {
  const auto wrong = [](std::string detail) {
    return Error{ErrorCode::kInvalidArgument, kNoOffset, "topology", std::move(detail)};
  };
  if (const auto fault = find_fault(topology)) return wrong(fault->detail);
  if (cache.value_count == 0) return wrong("the cache has no values");
  const std::vector<std::size_t> order = ordered_links(topology);
  std::vector<LinkPlan> plans(topology.links.size());
  std::vector<std::optional<std::size_t>> best(
      topology.agents.size());  // the link that brings an agent's best card
  for (const std::size_t l : order) {
    const Link& link = topology.links[l];
    LinkPlan& plan = plans[l];
    plan.budget = link_budget(link);
    plan.bytes = std::min(plan.budget, cache.whole_bytes);
    const auto source = best[link.from];
    if (source && plans[*source].bytes < plan.bytes) {
      plan.bytes = plans[*source].bytes;
      plan.capped_by = source;
    }
    plan.whole = plan.bytes >= cache.whole_bytes;
    plan.bits_per_value = 8.0 * static_cast<double>(plan.bytes) / static_cast<double>(cache.value_count);
    plan.seconds = link.bandwidth > 0.0 ? static_cast<double>(plan.bytes) / link.bandwidth : 0.0;
    plan.readers = readers_behind(topology, order, link.to);
    auto& best_there = best[link.to];
    if (!best_there || plans[*best_there].bytes < plan.bytes) best_there = l;
  }
  return plans;
}

}  // namespace cachecard
