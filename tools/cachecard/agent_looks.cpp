#include "agent_looks.hpp"

#include <algorithm>
#include <filesystem>
#include <numeric>

#include "cache_file.hpp"
#include "llama_part.hpp"
#include "span_file.hpp"
#include "table.hpp"
#include "weights_file.hpp"

namespace cachecard::cli {
namespace {

/// A link of a topology and its plan for a cache.
struct PlannedLink {
  TopologyFile file;
  std::size_t number = 0;
  LinkPlan plan;
};

Result<PlannedLink> planned_link(const CodecFlags& flags, const CacheSource& source,
                                 const CardOptions* card) {
  if (flags.topology == "-") return usage_error("--topology: found standard input, allowed is a file");
  auto file = read_topology(flags.topology);
  if (!file) return file.error();
  auto number = file->find_link(flags.link);
  if (!number) return number.error();
  CacheSize size{value_count(source.header()), ~std::uint64_t{0}};
  if (card != nullptr) {
    auto bytes = exact_card_bytes(source, *card, link_budget(file->topology.links[*number]));
    if (!bytes) return bytes.error();
    size.whole_bytes = *bytes;
  }
  auto plans = plan_links(file->topology, size);
  if (!plans) return plans.error();
  return PlannedLink{std::move(*file), *number, std::move((*plans)[*number])};
}

std::string agents_text(const TopologyFile& file, std::span<const std::size_t> agents) {
  std::string text;
  for (const std::size_t agent : agents)
    text += (text.empty() ? "" : ", ") + file.topology.agents[agent].name;
  return text;
}

/// Finds what each agent looks at: files first, since they cost nothing, then all probes in one go.
class LookFinder {
 public:
  LookFinder(const TopologyFile& file, const CodecFlags& flags, const CacheSource& source,
             const ParallelFor& parallel)
      : file_(file), flags_(flags), source_(source), parallel_(parallel) {}

  Result<TokenWeights> from_file(std::size_t agent) const;
  Status from_probes(std::span<const std::size_t> agents,
                     std::vector<std::optional<TokenWeights>>& out) const;

 private:
  std::string name_of(std::size_t agent, const std::string& what) const {
    return fmt::format("--topology {}, line {}: agent '{}', {}", file_.path, file_.looks[agent].line,
                       file_.topology.agents[agent].name, what);
  }

  const TopologyFile& file_;
  const CodecFlags& flags_;
  const CacheSource& source_;
  const ParallelFor& parallel_;
};

Result<TokenWeights> LookFinder::from_file(std::size_t agent) const {
  const std::string& path = file_.looks[agent].weights;
  const CardHeader& header = source_.header();
  auto weights = read_weights(path, header.token_count, weight_rows(header), name_of(agent, path));
  if (!weights) return weights.error();
  if (weights->half_bits) return usage_error(name_of(agent, path) + ": found half bits (i8), allowed are weights (f32, f64)");
  return std::move(weights->weights);
}

Status LookFinder::from_probes(std::span<const std::size_t> agents,
                               std::vector<std::optional<TokenWeights>>& out) const {
  if (agents.empty()) return {};
  std::vector<llama_calibrate::ProbeText> texts;
  for (const std::size_t agent : agents) {
    const AgentLook& look = file_.looks[agent];
    if (look.probe.empty()) {
      texts.push_back({name_of(agent, "'probe_text'"), look.probe_text});
      continue;
    }
    auto text = read_probe(look.probe, name_of(agent, look.probe));
    if (!text) return text.error();
    texts.push_back(std::move(*text));
  }
  auto weights = probe_weights(source_, texts, flags_.model, parallel_);
  if (!weights) return weights.error();
  for (std::size_t i = 0; i < agents.size(); ++i) out[agents[i]] = std::move((*weights)[i]);
  return {};
}

}  // namespace

Result<AgentLooks> AgentLooks::find(const TopologyFile& file, std::span<const std::size_t> agents,
                                    const CodecFlags& flags, const CacheSource& source,
                                    const ModelProfile* profile, const ParallelFor& parallel,
                                    std::vector<std::string>& notes) {
  const LookFinder finder(file, flags, source, parallel);
  AgentLooks looks(file);
  std::vector<std::size_t> silent;
  std::vector<std::size_t> probed;
  bool unread = false;
  for (const std::size_t agent : agents) {
    const AgentLook& look = file.looks[agent];
    if (!look.weights.empty()) {
      auto weights = finder.from_file(agent);
      if (!weights) return weights.error();
      looks.own_[agent] = std::move(*weights);
      looks.whose_[agent] = "from " + std::filesystem::path(look.weights).filename().string();
    } else if (look.has_probe() && !flags.model.empty()) {
      probed.push_back(agent);
      looks.whose_[agent] = look.probe.empty()
                                ? "by its probe"
                                : "by its probe, " + std::filesystem::path(look.probe).filename().string();
    } else {
      unread = unread || look.has_probe();
      silent.push_back(agent);
    }
  }
  if (Status s = finder.from_probes(probed, looks.own_); !s) return s.error();
  if (unread)
    notes.push_back(
        "probes are read by a model, and --model is not given: agents that have one look as the context "
        "itself does");
  std::vector<std::string> said;
  auto context = context_look(flags, source, profile, parallel, said);
  if (!context) return context.error();
  if (!silent.empty()) notes.insert(notes.end(), said.begin(), said.end());
  for (const std::size_t agent : silent) looks.whose_[agent] = context->whose;
  const std::uint64_t tokens = source.header().token_count;
  looks.context_ = context->weights ? std::move(*context->weights)
                                    : TokenWeights{1, tokens, std::vector<float>(tokens, 1.0f)};
  return looks;
}

TokenWeights AgentLooks::sum(std::span<const std::size_t> readers) const {
  std::vector<WeightShare> shares;
  for (const std::size_t agent : readers) {
    shares.push_back({own_[agent] ? &*own_[agent] : &context_, file_->topology.agents[agent].share});
  }
  return sum_weights(shares);
}

Result<CodecFlags> link_flags(const CodecFlags& flags, const CacheSource& source, const CardOptions& card,
                              std::vector<std::string>& notes) {
  if (!flags.codec.empty() && flags.codec != "entropy") {
    return usage_error(fmt::format(
        "--link: its card is entropy, or holds all of the cache: leave --codec {} out", flags.codec));
  }
  auto link = planned_link(flags, source, &card);
  if (!link) return link.error();
  const std::string name = link->file.link_name(link->number);
  CodecFlags chosen = flags;
  if (link->plan.whole) {
    notes.push_back(fmt::format("link {} lets all of the cache pass: the card keeps every bit", name));
    return CodecFlags{};
  }
  if (link->plan.capped_by) {
    notes.push_back(
        fmt::format("link {} lets {} pass, but {} gets no more than {} by {}: the card is no larger", name,
                    exact_bytes(link->plan.budget),
                    link->file.topology.agents[link->file.topology.links[link->number].from].name,
                    exact_bytes(link->plan.bytes), link->file.link_name(*link->plan.capped_by)));
  }
  const double bits = link->plan.bits_per_value;
  if (bits < kLeastBits) {
    return usage_error(fmt::format(
        "--link {}: it lets {} bytes pass, {:.2g} bits a value, allowed for entropy are {} and more",
        flags.link, grouped(link->plan.bytes), bits, kLeastBits));
  }
  chosen.codec = "entropy";
  chosen.bytes = link->plan.bytes;
  return chosen;
}

Result<TokenLook> link_look(const CodecFlags& flags, const CacheSource& source, const ModelProfile* profile,
                            const ParallelFor& parallel, std::vector<std::string>& notes) {
  auto link = planned_link(flags, source, nullptr);
  if (!link) return link.error();
  auto looks = AgentLooks::find(link->file, link->plan.readers, flags, source, profile, parallel, notes);
  if (!looks) return looks.error();
  return TokenLook{looks->sum(link->plan.readers), false,
                   fmt::format("of {} (link {})", agents_text(link->file, link->plan.readers),
                               link->file.link_name(link->number))};
}

}  // namespace cachecard::cli
