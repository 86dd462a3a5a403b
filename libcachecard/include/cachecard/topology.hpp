#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cachecard/error.hpp"

/// Who hands a context to whom: what each link may carry, and whose look at the tokens counts there.
namespace cachecard {

struct Agent {
  std::string name;
  double share = 1.0;  ///< how much its look at the tokens counts beside that of others, 0 or more
};

/// A hand-off. from and to are numbers of agents.
struct Link {
  std::size_t from = 0;
  std::size_t to = 0;
  double bandwidth = 0.0;        ///< bytes per second; 0: not known, then most_bytes says what may pass
  double seconds = 1.0;          ///< that a card may take
  std::uint64_t most_bytes = 0;  ///< that a card may have, whatever the bandwidth; 0: no such limit
};

struct Topology {
  std::vector<Agent> agents;
  std::vector<Link> links;
};

/// What is wrong with a topology, and where.
struct TopologyFault {
  bool of_link = false;    ///< else of an agent
  std::size_t number = 0;  ///< of the link or agent
  std::string detail;      ///< what was found, what is allowed
};

/// The first thing wrong: an agent without a name, one twice, a share that is not a number from 0 on; a link to an agent that is not
/// there, to itself, one twice; a bandwidth, time or limit that lets no byte pass; a cycle, by the names of its agents, at the link
/// that closes it. nullopt: it can be planned.
std::optional<TopologyFault> find_fault(const Topology& topology);

/// Bytes that a link lets pass: bandwidth x seconds, and no more than most_bytes. Needs: a link without a fault
std::uint64_t link_budget(const Link& link);

/// A cache to hand on.
struct CacheSize {
  std::uint64_t value_count = 0;
  std::uint64_t whole_bytes = 0;  ///< of a card that keeps all of it as it is
};

struct LinkPlan {
  std::uint64_t budget = 0;              ///< bytes that the link itself lets pass
  std::uint64_t bytes = 0;               ///< that its card may have
  std::optional<std::size_t> capped_by;  ///< the link whose card is the best that the sender gets, where that has fewer bytes than the budget
  bool whole = false;                    ///< the cache passes as it is
  double bits_per_value = 0.0;           ///< 8 x bytes / values
  double seconds = 0.0;                  ///< that those bytes take; 0 where the bandwidth is not known
  std::vector<std::size_t> readers;      ///< agents whose look counts: the receiver and all behind it, ascending
};

/// What each link carries of a cache that the agents without a link to them hold. A card is handed on byte for byte, so that no
/// link carries a better one than its sender got; of several that it got the best.
/// Errors: invalid_argument (find_fault; no values)
Result<std::vector<LinkPlan>> plan_links(const Topology& topology, const CacheSize& cache);

}  // namespace cachecard
