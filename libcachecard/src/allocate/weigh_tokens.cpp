#include <algorithm>
#include <cmath>
#include <string>

#include "cachecard/allocate.hpp"

namespace cachecard {
namespace {

constexpr std::int8_t kHalfStep = 2;  ///< half bits that halve the step
constexpr std::int8_t kMostOffset = 8;

Error argument_error(std::string detail) {
  return {ErrorCode::kInvalidArgument, kNoOffset, "token_weights", std::move(detail)};
}

std::size_t use_count(const CardHeader& header) { return BitWidthMap::first_use(header, header.streams.size()); }

Status check_weights(std::span<const float> weights, std::uint64_t rows, std::uint64_t token_count) {
  if (token_count == 0 || (weights.size() != token_count && weights.size() != rows * token_count)) {
    return argument_error("found " + std::to_string(weights.size()) + " weights, allowed are 1 or " + std::to_string(rows) +
                          " rows (one for each layer's KV head) of " + std::to_string(token_count) + " tokens");
  }
  for (std::size_t i = 0; i < weights.size(); ++i) {
    if (std::isfinite(weights[i]) && weights[i] >= 0.0f) continue;
    return argument_error("row " + std::to_string(i / token_count) + ", token " + std::to_string(i % token_count) + ": found " +
                          std::to_string(weights[i]) + ", allowed are finite numbers from 0 on");
  }
  return {};
}

void halve_newest(std::uint64_t newest_tokens, const CardHeader& header, EntropyOptions& entropy) {
  const std::uint64_t newest = std::min(newest_tokens, header.token_count);
  if (newest == 0) return;
  const std::size_t uses = use_count(header);
  entropy.token_offsets.resize(uses * header.token_count, 0);
  for (std::size_t use = 0; use < uses; ++use) {
    const auto row = std::span(entropy.token_offsets).subspan(use * header.token_count, header.token_count);
    for (std::int8_t& offset : row.last(newest)) offset = static_cast<std::int8_t>(std::min(offset + kHalfStep, +kMostOffset));
  }
}

/// Empty for kNone.
Result<std::vector<std::int8_t>> offsets_of(const CacheSource& source, const TokenWeighing& weighing, WeightSource from) {
  if (!weighing.given.empty()) return given_offsets(source.header(), weighing.given);
  if (from == WeightSource::kNone) return std::vector<std::int8_t>();
  if (from == WeightSource::kRecency) return recency_offsets(source.header());
  if (weighing.profile == nullptr) return argument_error("the newest queries and query centroids need a model profile");
  WeighOptions options;
  options.queries = from == WeightSource::kNewest      ? QuerySource::kMap
                    : from == WeightSource::kCentroids ? QuerySource::kCentroids
                                                       : QuerySource::kBoth;
  options.parallel = weighing.parallel;
  return profile_offsets(source, *weighing.profile, options);
}

}  // namespace

Result<std::vector<std::int8_t>> given_offsets(const CardHeader& header, std::span<const float> weights) {
  if (Status s = check_weights(weights, weight_rows(header), header.token_count); !s) return s.error();
  return head_offsets(header, {weights.size() / header.token_count, header.token_count, {weights.begin(), weights.end()}});
}

WeighReport use_offsets(const CardHeader& header, std::vector<std::int8_t> offsets, std::uint64_t newest_tokens, EntropyOptions& entropy) {
  WeighReport report;
  report.gain = offsets_gain(offsets, header.token_count);
  report.used = report.gain >= kLeastGain;
  if (report.used) entropy.token_offsets = std::move(offsets);
  halve_newest(newest_tokens, header, entropy);
  return report;
}

Result<WeighReport> weigh_tokens(const CacheSource& source, const TokenWeighing& weighing, EntropyOptions& entropy) {
  WeightSource from = weighing.source;
  if (from == WeightSource::kBest) from = weighing.profile != nullptr ? WeightSource::kBoth : WeightSource::kRecency;
  auto offsets = offsets_of(source, weighing, from);
  if (!offsets) return offsets.error();
  WeighReport report = use_offsets(source.header(), *std::move(offsets), weighing.newest_tokens, entropy);
  report.source = weighing.given.empty() ? from : WeightSource::kNone;
  return report;
}

}  // namespace cachecard
