#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <numeric>

#include "agent_looks.hpp"
#include "cache_file.hpp"
#include "commands.hpp"
#include "context.hpp"
#include "profile_file.hpp"
#include "output.hpp"
#include "workers.hpp"

namespace cachecard::cli {
namespace {

struct PlanArgs : SourceArgs {
  std::string topology;
  std::string from;
  CodecFlags codec;  ///< profile and queries
};

/// What a link's map of token weights gains, in dB.
struct LinkGain {
  double over_uniform = 0.0;
  double over_context = 0.0;  ///< over the map that the context by itself would have
};

struct TopologyPlan {
  TopologyFile file;
  CacheSize size;
  bool of_card = false;  ///< the cache is a card already
  std::vector<LinkPlan> links;
  std::vector<std::string> whose;  ///< by agent; empty: it reads nothing
  std::vector<LinkGain> gains;     ///< by link
};

Result<CacheSize> cache_size(const CacheFile& cache, const TopologyFile& file) {
  CacheSize size{value_count(cache.source->header()), cache.card_bytes};
  if (size.whole_bytes > 0) return size;
  std::uint64_t most = 0;
  for (const Link& link : file.topology.links) most = std::max(most, link_budget(link));
  auto bytes = exact_card_bytes(*cache.source, {}, most);
  if (!bytes) return bytes.error();
  size.whole_bytes = *bytes;
  return size;
}

Status add_gains(const CacheFile& cache, const CodecFlags& flags, const ParallelFor& parallel,
                 TopologyPlan& plan, std::vector<std::string>& notes) {
  const CardHeader& header = cache.source->header();
  std::optional<ModelProfile> profile;
  if (!flags.profile.empty()) {
    auto opened = open_profile(flags.profile, header, {});
    if (!opened) return opened.error();
    profile = std::move(*opened);
  }
  std::vector<bool> reads(plan.file.looks.size());
  for (const Link& link : plan.file.topology.links) reads[link.to] = true;
  std::vector<std::size_t> readers;
  for (std::size_t a = 0; a < reads.size(); ++a) {
    if (reads[a]) readers.push_back(a);
  }
  auto looks = AgentLooks::find(plan.file, readers, flags, *cache.source, profile ? &*profile : nullptr,
                                parallel, notes);
  if (!looks) return looks.error();
  plan.whose.resize(reads.size());
  for (const std::size_t agent : readers) plan.whose[agent] = looks->whose(agent);
  const std::vector<std::int8_t> context = head_offsets(header, looks->context());
  for (const LinkPlan& link : plan.links) {
    const TokenWeights sum = looks->sum(link.readers);
    const std::vector<std::int8_t> offsets = head_offsets(header, sum);
    plan.gains.push_back({offsets_gain(offsets, header.token_count),
                          weighted_gain(header, sum, offsets) - weighted_gain(header, sum, context)});
  }
  return {};
}

bool is_uniform(const TopologyPlan& plan, std::size_t link) {
  return plan.links[link].whole || plan.gains[link].over_uniform < kLeastGain;
}

std::string rate_text(double bandwidth) {
  return bandwidth == 0.0 ? "-" : human_bytes(static_cast<std::uint64_t>(std::min(bandwidth, 0x1p62))) + "/s";
}

std::string seconds_text(double seconds) { return seconds == 0.0 ? "-" : fmt::format("{:.3g} s", seconds); }

std::string gain_text(const TopologyPlan& plan, std::size_t link) {
  if (plan.links[link].whole) return "as it is";
  return fmt::format("{:.1f} dB{}", plan.gains[link].over_uniform,
                     is_uniform(plan, link) ? " (uniform)" : "");
}

std::string readers_text(const TopologyPlan& plan, const LinkPlan& link) {
  std::vector<std::string> names;
  for (const std::size_t reader : link.readers) names.push_back(plan.file.topology.agents[reader].name);
  return joined(names);
}

std::string links_text(const TopologyPlan& plan) {
  constexpr auto kRight = Table::Align::kRight;
  Table table({{"link"},
               {"bandwidth", kRight},
               {"allowed", kRight},
               {"budget", kRight},
               {"card", kRight},
               {"bits per value", kRight},
               {"takes", kRight},
               {"capped by"},
               {"tokens count for"},
               {"gain", kRight},
               {"over context's", kRight}});
  for (std::size_t l = 0; l < plan.links.size(); ++l) {
    const LinkPlan& link = plan.links[l];
    const Link& given = plan.file.topology.links[l];
    table.add({plan.file.link_name(l), rate_text(given.bandwidth),
               given.bandwidth == 0.0 ? "-" : seconds_text(given.seconds), human_bytes(link.budget),
               human_bytes(link.bytes), fmt::format("{:.3f}", link.bits_per_value),
               seconds_text(link.seconds), link.capped_by ? plan.file.link_name(*link.capped_by) : "-",
               readers_text(plan, link), gain_text(plan, l),
               is_uniform(plan, l) ? "-" : fmt::format("{:.1f} dB", plan.gains[l].over_context)});
  }
  return table.text();
}

std::string agents_text(const TopologyPlan& plan) {
  Table table({{"agent"}, {"share", Table::Align::kRight}, {"looks"}, {"role"}});
  for (std::size_t a = 0; a < plan.whose.size(); ++a) {
    const Agent& agent = plan.file.topology.agents[a];
    table.add({agent.name, fmt::format("{:.3g}", agent.share),
               plan.whose[a].empty() ? "holds the cache" : plan.whose[a],
               plan.file.looks[a].role.empty() ? "-" : plan.file.looks[a].role});
  }
  return table.text();
}

Json links_json(const TopologyPlan& plan) {
  const auto& agents = plan.file.topology.agents;
  const auto number = [](double value) { return value == 0.0 ? Json(nullptr) : Json(value); };
  Json rows = Json::array();
  for (std::size_t l = 0; l < plan.links.size(); ++l) {
    const LinkPlan& link = plan.links[l];
    const Link& given = plan.file.topology.links[l];
    Json readers = Json::array();
    for (const std::size_t reader : link.readers) readers.push_back(agents[reader].name);
    Json capped = nullptr;
    if (link.capped_by) {
      const Link& by = plan.file.topology.links[*link.capped_by];
      capped = {{"from", agents[by.from].name}, {"to", agents[by.to].name}};
    }
    rows.push_back({{"from", agents[given.from].name},
                    {"to", agents[given.to].name},
                    {"bandwidth", number(given.bandwidth)},
                    {"allowed_seconds", given.bandwidth == 0.0 ? Json(nullptr) : Json(given.seconds)},
                    {"budget_bytes", link.budget},
                    {"card_bytes", link.bytes},
                    {"bits_per_value", link.bits_per_value},
                    {"seconds", number(link.seconds)},
                    {"capped_by", capped},
                    {"whole", link.whole},
                    {"readers", readers},
                    {"uniform", is_uniform(plan, l)},
                    {"gain_db", plan.gains[l].over_uniform},
                    {"topology_gain_db", plan.gains[l].over_context}});
  }
  return rows;
}

void report(const TopologyPlan& plan, const CardHeader& header, const PlanArgs& args,
            const Context& context) {
  Facts facts;
  facts.add("topology", fmt::format("{}: {} agents, {} links", input_name(args.topology),
                                    plan.file.topology.agents.size(), plan.links.size()));
  facts.add("cache", fmt::format("{}: {} tokens, {} values", input_name(args.input),
                                 grouped(header.token_count), grouped(plan.size.value_count)));
  facts.add(plan.of_card ? "card" : "as it is", exact_bytes(plan.size.whole_bytes));
  context.say(facts.text() + "\nagents\n" + agents_text(plan) + "\nlinks\n" + links_text(plan));
  Json agents = Json::array();
  for (std::size_t a = 0; a < plan.whose.size(); ++a) {
    agents.push_back(
        {{"name", plan.file.topology.agents[a].name},
         {"role", plan.file.looks[a].role.empty() ? Json(nullptr) : Json(plan.file.looks[a].role)},
         {"share", plan.file.topology.agents[a].share},
         {"weights", plan.whose[a].empty() ? Json(nullptr) : Json(plan.whose[a])}});
  }
  context.say_json({{"topology", args.topology},
                    {"cache", args.input},
                    {"token_count", header.token_count},
                    {"value_count", plan.size.value_count},
                    {"whole_bytes", plan.size.whole_bytes},
                    {"agents", agents},
                    {"links", links_json(plan)}});
  for (std::size_t l = 0; l < plan.links.size(); ++l) {
    if (plan.links[l].bits_per_value >= kLeastBits) continue;
    context.note(fmt::format("link {} lets {} bytes pass: no card is that small", plan.file.link_name(l),
                             grouped(plan.links[l].bytes)));
  }
  const bool maps =
      std::any_of(plan.links.begin(), plan.links.end(), [](const LinkPlan& link) { return !link.whole; });
  const bool pays = std::any_of(plan.gains.begin(), plan.gains.end(),
                                [](const LinkGain& gain) { return gain.over_context >= kLeastGain; });
  if (maps && !pays) {
    context.note(
        fmt::format("whose look counts makes less than {:.1f} dB on every link: the context's own token "
                    "weights serve as well",
                    kLeastGain));
  }
}

int run(PlanArgs& args, Context& context) {
  if (args.topology == "-" && args.input == "-") {
    return context.fail(
        {ErrorCode::kInvalidArgument, kNoOffset, {}, "GRAPH and CACHE cannot both be standard input"},
        "plan");
  }
  TopologyPlan plan;
  auto file = read_topology(args.topology);
  if (!file) return context.fail(file.error(), "plan");
  plan.file = std::move(*file);
  std::string at_fault;
  auto cache = open_cache(args, args.from, at_fault);
  if (!cache) return context.fail(cache.error(), at_fault);
  plan.of_card = cache->card_bytes > 0;
  auto size = cache_size(*cache, plan.file);
  if (!size) return context.fail(size.error(), input_name(args.input));
  plan.size = *size;
  auto links = plan_links(plan.file.topology, plan.size);
  if (!links) return context.fail(links.error(), "plan");
  plan.links = std::move(*links);
  Workers workers(context.threads);
  std::vector<std::string> notes;
  args.codec.model = args.model.model;
  if (Status s = add_gains(*cache, args.codec, workers.parallel(), plan, notes); !s)
    return context.fail(s.error(), "plan");
  for (const std::string& note : notes) context.note(note);
  report(plan, cache->source->header(), args, context);
  return 0;
}

}  // namespace

void add_plan(CLI::App& app, Context& context) {
  auto args = std::make_shared<PlanArgs>();
  args->command = "plan";
  CLI::App& command = *app.add_subcommand(
      "plan", "Show what each link of a graph of agents would carry of a cache, and whose look counts there");
  command.add_option("GRAPH", args->topology, "Topology: agents and links, JSON; - for standard input")
      ->required();
  command.add_option("CACHE", args->input, "Card, or cache of a runtime; - for standard input")->required();
  command.add_option("--from", args->from, "Format of CACHE (default: told by content)")
      ->check(CLI::IsMember(format_names()))
      ->type_name("FORMAT");
  command
      .add_option("--profile", args->codec.profile,
                  "Model profile: for agents that say nothing of what they look at")
      ->type_name("FILE");
  command
      .add_option("--queries", args->codec.queries,
                  "For those agents: newest, centroids, both, recency or none (default: both with --profile, "
                  "else recency)")
      ->check(CLI::IsMember({"newest", "centroids", "both", "recency", "none"}))
      ->type_name("WHOSE");
  add_model_options(command, args->model);
  add_geometry_options(command, args->model);
  command.add_option("--layout", args->layout, "State layout, 10/3 or 11/4 (of a memory blob)")
      ->check(CLI::IsMember({"10/3", "11/4"}))
      ->type_name("LAYOUT");
  add_tensor_options(command, args->torch);
  add_threads_option(command, context);
  add_common_options(command, context);
  command.callback([args, &context] { run(*args, context); });
}

}  // namespace cachecard::cli
