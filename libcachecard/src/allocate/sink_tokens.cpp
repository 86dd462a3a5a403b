// Attention sinks beyond the first tokens.
#include <algorithm>
#include <cmath>
#include <span>

#include "allocate/key_rows.hpp"
#include "cachecard/allocate.hpp"

namespace cachecard {
namespace {

constexpr float kFarSquare = 9.0f;          ///< above the median's
constexpr float kNearSquare = 1.0f / 25.0f;  ///< below it
constexpr std::uint64_t kLeastHeads = 12;   ///< one in so many of all heads' values must be outliers
constexpr std::uint64_t kMostTokens = 64;   ///< one in so many may be sinks; what is more is how the model is
constexpr std::uint64_t kSpanTokens = 1024;

/// Squared norms of one stream's heads: [head][token].
Status read_norms(const CacheSource& source, std::size_t index, std::vector<float>& norms) {
  const StreamRecord& stream = source.header().streams[index];
  KeyRows rows(source, index);
  std::vector<float> values(kSpanTokens * rows.width());
  norms.assign(stream.kv_head_count * stream.token_count, 0.0f);
  for (std::uint64_t at = 0; at < stream.token_count; at += kSpanTokens) {
    const std::uint64_t count = std::min(kSpanTokens, stream.token_count - at);
    if (Status s = rows.read(stream.first_token + at, count, false, std::span(values).first(count * rows.width())); !s) return s;
    for (std::uint64_t t = 0; t < count; ++t) {
      for (std::uint32_t h = 0; h < stream.kv_head_count; ++h) {
        float sum = 0.0f;
        const float* head = values.data() + t * rows.width() + std::size_t{h} * stream.head_dim;
        for (std::uint32_t c = 0; c < stream.head_dim; ++c) sum += head[c] * head[c];
        norms[h * stream.token_count + at + t] = std::isfinite(sum) ? sum : 0.0f;
      }
    }
  }
  return {};
}

struct SinkJob {
  const CacheSource& source;
  std::vector<std::size_t> streams;
  std::vector<std::vector<std::uint32_t>> counts;  ///< by stream, then token of the card: heads in which it is an outlier
  std::vector<Status> statuses;

  void run(std::size_t i);
};

void SinkJob::run(std::size_t i) {
  const StreamRecord& stream = source.header().streams[streams[i]];
  std::vector<float> norms;
  statuses[i] = read_norms(source, streams[i], norms);
  if (!statuses[i]) return;
  counts[i].assign(source.header().token_count, 0);
  for (std::uint32_t h = 0; h < stream.kv_head_count; ++h) {
    const auto row = std::span(norms).subspan(h * stream.token_count, stream.token_count);
    std::vector<float> sorted(row.begin(), row.end());
    const auto middle = sorted.begin() + static_cast<std::ptrdiff_t>(sorted.size() / 2);
    std::nth_element(sorted.begin(), middle, sorted.end());
    for (std::uint64_t t = 0; t < row.size(); ++t) {
      if (row[t] > kFarSquare * *middle || row[t] < kNearSquare * *middle) ++counts[i][stream.first_token + t];
    }
  }
}

}  // namespace

Result<std::vector<std::uint64_t>> find_sinks(const CacheSource& source, const ParallelFor& parallel) {
  const CardHeader& header = source.header();
  SinkJob job{source, {}, {}, {}};
  std::uint64_t heads = 0;
  for (std::size_t s = 0; s < header.streams.size(); ++s) {
    const StreamRecord& stream = header.streams[s];
    if (stream.stream != static_cast<std::uint8_t>(StreamKind::kValue) || !is_weighed(stream) || stream.token_count == 0) continue;
    job.streams.push_back(s);
    heads += stream.kv_head_count;
  }
  job.counts.resize(job.streams.size());
  job.statuses.resize(job.streams.size());
  parallel(
      job.streams.size(), [](void* context, std::size_t i) { static_cast<SinkJob*>(context)->run(i); }, &job);
  for (const Status& s : job.statuses) {
    if (!s) return s.error();
  }
  std::vector<std::uint64_t> sinks;
  for (std::uint64_t t = 0; t < header.token_count; ++t) {
    std::uint64_t outliers = 0;
    for (const auto& counts : job.counts) outliers += counts[t];
    if (outliers * kLeastHeads >= heads && outliers > 0) sinks.push_back(t);
  }
  if (sinks.size() * kMostTokens > header.token_count) sinks.clear();
  return sinks;
}

void choose_sinks(std::uint64_t token_count, double bits, EntropyOptions& entropy) {
  constexpr std::uint64_t kSinks = 4;
  const bool pays = (bits - 0.6) * static_cast<double>(token_count) >= 900.0;
  entropy.exact_tokens = pays ? kSinks : 0;
  entropy.fine_tokens = pays ? 0 : kSinks;
}

double bits_within(const CardHeader& header, std::uint64_t file_bytes) {
  double values = 0.0;
  double bytes = static_cast<double>(file_bytes);
  for (const StreamRecord& stream : header.streams) {
    const auto dtype = static_cast<DType>(stream.dtype);
    if (stream.stream == static_cast<std::uint8_t>(StreamKind::kOpaque)) {
      bytes -= static_cast<double>(stream.opaque_size);
    } else if (dtype_info(dtype)->block_elements != 1) {
      bytes -= static_cast<double>(stream.token_count * row_bytes(stream, dtype));
    } else {
      values += static_cast<double>(stream.token_count * row_elements(stream));
    }
  }
  return values > 0.0 ? 8.0 * std::max(0.0, bytes) / values : 0.0;
}

}  // namespace cachecard
