#include "token_look.hpp"

#include <algorithm>
#include <iterator>
#include <string_view>

#include "agent_looks.hpp"
#include "llama_part.hpp"
#include "span_file.hpp"
#include "weights_file.hpp"

namespace cachecard::cli {

Result<TokenLook> context_look(const CodecFlags& flags, const CacheSource& source,
                               const ModelProfile* profile, const ParallelFor& parallel,
                               std::vector<std::string>& notes) {
  std::string queries = flags.queries;
  if (queries.empty()) queries = profile != nullptr ? "both" : "recency";
  if (profile == nullptr && queries != "recency" && queries != "none") {
    return usage_error(fmt::format("--queries {}: needs --profile", queries));
  }
  if (queries == "none") return TokenLook{{}, false, "the same for all"};
  if (queries == "recency") {
    if (flags.queries.empty()) {
      notes.push_back(
          "token weights go by recency alone: a model profile (--profile, made by cachecard calibrate) knows "
          "far "
          "better which tokens count");
    }
    return TokenLook{recency_weights(source.header().token_count), false, "by recency"};
  }
  struct Named {
    std::string_view name;
    QuerySource source;
    const char* whose;
  };
  static constexpr Named kNamed[] = {{"newest", QuerySource::kMap, "from the newest tokens' queries, estimated"},
                                     {"centroids", QuerySource::kCentroids, "from query centroids"},
                                     {"both", QuerySource::kBoth, "from the newest tokens' queries, estimated, and query centroids"}};
  const Named& named = *std::find_if(std::begin(kNamed), std::end(kNamed), [&](const Named& one) { return one.name == queries; });
  WeighOptions options;
  options.queries = named.source;
  options.parallel = parallel;
  auto weights = profile_weights(source, *profile, options);
  if (!weights) return weights.error();
  return TokenLook{std::move(*weights), false, named.whose};
}

namespace {

/// Receivers count alike.
Result<TokenLook> probed_look(const CodecFlags& flags, const CacheSource& source,
                              const ParallelFor& parallel) {
  if (flags.model.empty())
    return usage_error("--probe: needs --model, the GGUF file that reads the text");
  std::vector<llama_calibrate::ProbeText> texts;
  for (const std::string& path : flags.probes) {
    auto text = read_probe(path, "--probe " + path);
    if (!text) return text.error();
    texts.push_back(std::move(*text));
  }
  auto weights = probe_weights(source, texts, flags.model, parallel);
  if (!weights) return weights.error();
  std::vector<WeightShare> shares;
  for (const TokenWeights& one : *weights) shares.push_back({&one, 1.0});
  return TokenLook{sum_weights(shares), false, texts.size() == 1
                                            ? "from a receiver's probe"
                                            : fmt::format("from {} receivers' probes", texts.size())};
}

}  // namespace

Result<TokenLook> find_look(const CodecFlags& flags, const CacheSource& source, const ModelProfile* profile,
                            const ParallelFor& parallel, std::vector<std::string>& notes) {
  const CardHeader& header = source.header();
  if (!flags.link.empty()) return link_look(flags, source, profile, parallel, notes);
  if (!flags.probes.empty()) return probed_look(flags, source, parallel);
  if (flags.weights.empty()) return context_look(flags, source, profile, parallel, notes);
  auto weights = read_weights(flags.weights, header.token_count, weight_rows(header));
  if (!weights) return weights.error();
  return TokenLook{std::move(weights->weights), weights->half_bits, "from a file"};
}

}  // namespace cachecard::cli
