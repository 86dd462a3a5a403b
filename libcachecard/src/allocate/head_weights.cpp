#include <algorithm>
#include <cmath>

#include "cachecard/allocate.hpp"

namespace cachecard {
namespace {

bool is_value(const StreamRecord& stream) {
  return stream.stream == static_cast<std::uint8_t>(StreamKind::kValue);
}

/// As the map counts them.
std::size_t head_count(const CardHeader& header, std::size_t stream) {
  return BitWidthMap::first_use(header, stream + 1) - BitWidthMap::first_use(header, stream);
}

std::span<const float> row_of(const TokenWeights& weights, std::uint64_t row) {
  const std::uint64_t from = weights.row_count == 1 ? 0 : std::min(row, weights.row_count - 1);
  return std::span(weights.values).subspan(from * weights.token_count, weights.token_count);
}

double mean_of(std::span<const float> row) {
  double sum = 0.0;
  for (const float weight : row) sum += double{weight};
  return row.empty() ? 0.0 : sum / static_cast<double>(row.size());
}

/// How far the error of one head's tokens falls, in dB.
double row_gain(std::span<const float> weights, std::span<const std::int8_t> offsets) {
  const double mean = mean_of(weights);
  if (!(mean > 0.0)) return 0.0;
  double error = 0.0;
  double bits = 0.0;
  for (std::size_t t = 0; t < weights.size(); ++t) {
    error += double{weights[t]} * std::ldexp(1.0, -offsets[t]);
    bits += offsets[t];
  }
  const auto count = static_cast<double>(weights.size());
  return 10.0 * std::log10(mean * count / error) - 10.0 * std::log10(2.0) * bits / count;
}

}  // namespace

std::uint64_t weight_rows(const CardHeader& header) {
  std::uint64_t rows = 0;
  for (std::size_t s = 0; s < header.streams.size(); ++s)
    rows += is_value(header.streams[s]) ? 0 : head_count(header, s);
  return std::max<std::uint64_t>(1, rows);
}

std::vector<std::uint64_t> weight_row_of_use(const CardHeader& header) {
  const std::uint64_t last = weight_rows(header) - 1;
  std::vector<std::uint64_t> rows;
  std::uint64_t next = 0;
  for (std::size_t s = 0; s < header.streams.size(); ++s) {
    const StreamRecord& stream = header.streams[s];
    const std::size_t heads = head_count(header, s);
    const bool repeats = is_value(stream) && s > 0 && header.streams[s - 1].layer == stream.layer &&
                         head_count(header, s - 1) == heads;
    if (repeats) next -= heads;
    for (std::size_t h = 0; h < heads; ++h) rows.push_back(std::min(next + h, last));
    if (repeats || !is_value(stream)) next += heads;
  }
  return rows;
}

TokenWeights sum_weights(std::span<const WeightShare> shares) {
  TokenWeights sum;
  for (const WeightShare& one : shares) {
    sum.token_count = one.weights->token_count;
    sum.row_count = std::max(sum.row_count, one.weights->row_count);
  }
  sum.values.assign(sum.row_count * sum.token_count, 0.0f);
  for (const WeightShare& one : shares) {
    for (std::uint64_t r = 0; r < sum.row_count; ++r) {
      const auto from = row_of(*one.weights, r);
      const double mean = mean_of(from);
      const auto out = std::span(sum.values).subspan(r * sum.token_count, sum.token_count);
      for (std::size_t t = 0; t < out.size(); ++t) {
        out[t] += static_cast<float>(one.share * (mean > 0.0 ? double{from[t]} / mean : 1.0));
      }
    }
  }
  return sum;
}

std::vector<std::int8_t> head_offsets(const CardHeader& header, const TokenWeights& weights) {
  const std::vector<std::uint64_t> rows = weight_row_of_use(header);
  std::vector<std::int8_t> offsets(rows.size() * header.token_count, 0);
  for (std::size_t s = 0; s < header.streams.size(); ++s) {
    const StreamRecord& stream = header.streams[s];
    const std::size_t first = BitWidthMap::first_use(header, s);
    const std::size_t heads = head_count(header, s);
    const auto of_use = [&](std::size_t use) {
      return std::span(offsets).subspan(use * header.token_count + stream.first_token, stream.token_count);
    };
    for (std::size_t use = first; use < first + heads; ++use) {
      const bool as_keys = s > 0 && is_value(stream) && head_count(header, s - 1) == heads &&
                           rows[use - heads] == rows[use] && header.streams[s - 1].first_token == stream.first_token &&
                           header.streams[s - 1].token_count == stream.token_count;
      if (as_keys) {
        std::copy_n(of_use(use - heads).begin(), stream.token_count, of_use(use).begin());
        continue;
      }
      weight_offsets(row_of(weights, rows[use]).subspan(stream.first_token, stream.token_count), of_use(use));
    }
  }
  return offsets;
}

double weighted_gain(const CardHeader& header, const TokenWeights& weights,
                     std::span<const std::int8_t> offsets) {
  const std::vector<std::uint64_t> rows = weight_row_of_use(header);
  double all = 0.0;
  for (std::size_t s = 0; s < header.streams.size(); ++s) {
    const StreamRecord& stream = header.streams[s];
    const std::size_t first = BitWidthMap::first_use(header, s);
    for (std::size_t use = first; use < first + head_count(header, s); ++use) {
      all += row_gain(row_of(weights, rows[use]).subspan(stream.first_token, stream.token_count),
                      offsets.subspan(use * header.token_count + stream.first_token, stream.token_count));
    }
  }
  return rows.empty() ? 0.0 : all / static_cast<double>(rows.size());
}

}  // namespace cachecard
