#include "writer/chunk_jobs.hpp"

#include <algorithm>

#include "format/entropy_layout.hpp"
#include "writer/card_order.hpp"

namespace cachecard {
namespace {

/// Chunks of one stream inside one segment.
void plan_stream(const CardHeader& header, std::size_t index, std::uint32_t segment,
                 const CardOptions& options, std::vector<ChunkJob>& jobs) {
  const StreamRecord& stream = header.streams[index];
  if (is_opaque(stream)) {
    if (segment + 1 != header.segments.size()) return;
    for (std::uint64_t at = 0; at < stream.opaque_size; at += kPieceBytes) {
      jobs.push_back({index, segment, at, std::min(kPieceBytes, stream.opaque_size - at)});
    }
    return;
  }
  const SegmentRecord& s = header.segments[segment];
  const std::uint64_t first = std::max(s.first_token, stream.first_token);
  const std::uint64_t end = std::min(s.first_token + s.token_count, stream.first_token + stream.token_count);
  if (first >= end) return;
  const std::uint64_t size = row_bytes(stream, static_cast<DType>(stream.dtype));
  const std::uint64_t planned = options.entropy && is_float_stream(stream) ? strip_row_bytes(stream) : size;
  for (const TokenSpan& span : plan_chunks(first, end - first, planned, options.chunk_tokens, options.limits)) {
    jobs.push_back({index, segment, span.first_token, span.token_count});
  }
}

}  // namespace

std::uint64_t job_bytes(const CardHeader& header, const ChunkJob& job) {
  const StreamRecord& stream = header.streams[job.stream];
  return is_opaque(stream) ? job.count
                           : job.count * row_bytes(stream, static_cast<DType>(stream.dtype));
}

std::vector<ChunkJob> plan_segment(const CardHeader& header, std::uint32_t segment,
                                   const CardOptions& options) {
  std::vector<ChunkJob> jobs;
  for (std::size_t i = 0; i < header.streams.size(); ++i) plan_stream(header, i, segment, options, jobs);
  if (header.segments[segment].chunk_order == static_cast<std::uint8_t>(ChunkOrder::kSpanMajor)) {
    std::stable_sort(jobs.begin(), jobs.end(),
                     [](const ChunkJob& a, const ChunkJob& b) { return a.first < b.first; });
  }
  return jobs;
}

std::vector<TokenSpan> plan_chunks(std::uint64_t first_token, std::uint64_t token_count,
                                   std::uint64_t row_bytes, std::uint64_t chunk_tokens,
                                   const Limits& limits) {
  // A joined remainder makes a chunk up to half as long again: that must still fit.
  const std::uint64_t fits = std::max<std::uint64_t>(1, limits.section_bytes / row_bytes);
  std::uint64_t span = std::min(std::max<std::uint64_t>(1, chunk_tokens), std::max<std::uint64_t>(1, fits * 2 / 3));
  if (span >= 64) span -= span % 64;
  std::vector<TokenSpan> spans;
  while (token_count > 0) {
    std::uint64_t count = std::min(span, token_count);
    const std::uint64_t rest = token_count - count;
    if (rest > 0 && rest * 2 < span && (count + rest) <= fits) count += rest;
    spans.push_back({first_token, count});
    first_token += count;
    token_count -= count;
  }
  return spans;
}

}  // namespace cachecard
