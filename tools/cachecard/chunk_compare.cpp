#include <algorithm>
#include <cmath>
#include <cstring>

#include "cachecard/writer.hpp"
#include "card_compare.hpp"

namespace cachecard::cli {
namespace {

constexpr std::uint64_t kPieceValues = 1u << 22;
constexpr std::uint64_t kPieceBytes = 1u << 20;

using Side = CompareSide;

/// One chunk's work, its result and what went wrong.
struct Job {
  Side left;
  Side right;
  const FrameHeader* frame;  ///< the left card's chunk
  const FrameHeader* other;  ///< of the right card from the same token on, or null
  ChunkComparison result;
  Status status;
};

std::uint64_t first_in_segment(const CardReader& card, const FrameHeader& frame) {
  const auto& segments = card.header().segments;
  const std::uint64_t start = frame.segment < segments.size() ? segments[frame.segment].first_token : 0;
  return frame.first_token - start;
}

/// spec: FORMAT.md#equal-chunks
bool same_stored(const Job& job) {
  if (job.other == nullptr || job.left.changes_keys() || job.right.changes_keys()) return false;
  const FrameHeader& a = *job.frame;
  const FrameHeader& b = *job.other;
  return a.codec == b.codec && a.dtype == b.dtype && a.compressor == b.compressor &&
         a.token_count == b.token_count && a.stored_size == b.stored_size &&
         a.stored_digest == b.stored_digest && a.parameter_digest == b.parameter_digest &&
         a.map_digest == b.map_digest &&
         first_in_segment(*job.left.card, a) == first_in_segment(*job.right.card, b);
}

Result<std::vector<std::byte>> rows_of(const Side& side, std::uint64_t first, std::uint64_t count) {
  const StreamRecord& record = side.record();
  std::vector<std::byte> rows(count * row_bytes(record, static_cast<DType>(record.dtype)));
  std::vector<std::byte> scratch(side.card->scratch_bytes(side.stream));
  if (Status s = side.card->read_rows(side.stream, first, count, rows, scratch); !s) {
    return s.error();
  }
  return rows;
}

Result<std::vector<float>> values_of(const Side& side, std::uint64_t first, std::uint64_t count) {
  const StreamRecord& record = side.record();
  std::vector<float> values(count * row_elements(record));
  DecodeRequest request;
  request.stream = side.stream;
  request.first_token = first;
  request.token_count = count;
  request.rope_shift = side.rope_shift;
  request.rope_pairing = side.pairing;
  DecodeTarget target;
  target.base = values.data();
  target.channel_stride = sizeof(float);
  target.head_stride = target.channel_stride * record.head_dim;
  target.token_stride = target.head_stride * record.kv_head_count;
  if (Status s = side.card->decode(request, target); !s) return s.error();
  return values;
}

/// |a - b| / |a| out of squares; 1 where a is zero and b is not.
double relative(double difference_square, double left_square) {
  if (difference_square == 0.0) return 0.0;
  return left_square == 0.0 ? 1.0 : std::sqrt(difference_square / left_square);
}

/// One token's values.
void compare_row(std::span<const float> a, std::span<const float> b, std::uint64_t token, ChunkComparison& result) {
  double left = 0.0;
  double right = 0.0;
  double product = 0.0;
  double difference = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double x = a[i];
    const double y = b[i];
    const bool same = std::memcmp(&a[i], &b[i], sizeof(float)) == 0;
    if (!same) ++result.differing;
    if (!std::isfinite(x) || !std::isfinite(y)) {
      if (!same) ++result.nonfinite;
      continue;
    }
    result.max_abs = std::max(result.max_abs, std::abs(x - y));
    left += x * x;
    right += y * y;
    product += x * y;
    difference += (x - y) * (x - y);
  }
  result.left_square += left;
  result.right_square += right;
  result.product += product;
  result.difference_square += difference;
  const double error = relative(difference, left);
  if (error <= result.worst_error) return;
  result.worst_error = error;
  result.worst_token = token;
}

void compare_values(std::span<const float> a, std::span<const float> b, std::uint64_t first_token, std::uint64_t row,
                    ChunkComparison& result) {
  for (std::uint64_t t = 0; t * row < a.size(); ++t) {
    compare_row(a.subspan(t * row, row), b.subspan(t * row, row), first_token + t, result);
  }
}

bool same_bytes_compare(const Side& left, const Side& right) {
  const StreamRecord& a = left.record();
  const StreamRecord& b = right.record();
  return a.dtype == b.dtype && a.hadamard_size == b.hadamard_size && !left.changes_keys() && !right.changes_keys();
}

Status compare_decoded(Job& job, std::uint64_t first, std::uint64_t count) {
  const std::uint64_t row = row_elements(job.left.record());
  const std::uint64_t piece = std::max<std::uint64_t>(1, kPieceValues / std::max<std::uint64_t>(row, 1));
  for (std::uint64_t done = 0; done < count; done += piece) {
    const std::uint64_t size = std::min(piece, count - done);
    auto a = values_of(job.left, first + done, size);
    if (!a) return a.error();
    auto b = values_of(job.right, first + done, size);
    if (!b) return b.error();
    compare_values(*a, *b, first + done, row, job.result);
  }
  job.result.measured = true;
  job.result.verdict = job.result.differing == 0 ? ChunkVerdict::kEqualValues : ChunkVerdict::kDifferent;
  return {};
}

/// The part of the chunk that both cards hold; the rest is a difference of structure.
TokenSpan shared_tokens(const Job& job) {
  const StreamRecord& other = job.right.record();
  const std::uint64_t first = std::max(job.frame->first_token, other.first_token);
  const std::uint64_t end =
      std::min(job.frame->first_token + job.frame->token_count, other.first_token + other.token_count);
  return {first, end > first ? end - first : 0};
}

Status compare_chunk(Job& job) {
  const StreamRecord& other = job.right.record();
  const auto [first, count] = shared_tokens(job);
  job.result.value_count = count * row_elements(other);
  if (same_stored(job)) return {};
  if (same_bytes_compare(job.left, job.right)) {
    auto a = rows_of(job.left, first, count);
    if (!a) return a.error();
    auto b = rows_of(job.right, first, count);
    if (!b) return b.error();
    job.result.verdict = ChunkVerdict::kEqualValues;
    if (*a == *b) return {};
  }
  return compare_decoded(job, first, count);
}

/// Norms of a chunk that is equal, for a stream of which others are not.
Status measure_chunk(Job& job) {
  if (job.result.measured) return {};
  const ChunkVerdict verdict = job.result.verdict;
  const auto [first, count] = shared_tokens(job);
  Status status = compare_decoded(job, first, count);
  job.result.verdict = verdict;
  return status;
}

using ChunkWork = Status (*)(Job& job);

Status run(std::vector<Job>& jobs, const ParallelFor& parallel, ChunkWork work) {
  struct Batch {
    std::vector<Job>& jobs;
    ChunkWork work;
  } batch{jobs, work};
  parallel(
      jobs.size(),
      [](void* context, std::size_t index) {
        auto& b = *static_cast<Batch*>(context);
        b.jobs[index].status = b.work(b.jobs[index]);
      },
      &batch);
  for (const Job& job : jobs) {
    if (!job.status) return job.status;
  }
  return {};
}

StreamComparison total_of(const StreamRecord& stream, const std::vector<Job>& jobs) {
  StreamComparison total;
  total.layer = stream.layer;
  total.stream = static_cast<StreamKind>(stream.stream);
  ChunkComparison sums;
  for (const Job& job : jobs) {
    const ChunkComparison& chunk = job.result;
    total.value_count += chunk.value_count;
    total.differing += chunk.differing;
    total.nonfinite += chunk.nonfinite;
    total.max_abs = std::max(total.max_abs, chunk.max_abs);
    sums.left_square += chunk.left_square;
    sums.right_square += chunk.right_square;
    sums.product += chunk.product;
    sums.difference_square += chunk.difference_square;
    if (chunk.worst_error <= total.worst_error) continue;
    total.worst_error = chunk.worst_error;
    total.worst_token = chunk.worst_token;
  }
  total.relative_error = relative(sums.difference_square, sums.left_square);
  const double norms = std::sqrt(sums.left_square) * std::sqrt(sums.right_square);
  if (total.relative_error > 0.0) total.cosine = norms == 0.0 ? 0.0 : sums.product / norms;
  return total;
}

Status compare_opaque(const Side& left, const Side& right, ChunkComparison& result) {
  const std::uint64_t size = std::min(left.record().opaque_size, right.record().opaque_size);
  std::vector<std::byte> a(kPieceBytes);
  std::vector<std::byte> b(kPieceBytes);
  for (std::uint64_t offset = 0; offset < size; offset += a.size()) {
    a.resize(std::min(kPieceBytes, size - offset));
    b.resize(a.size());
    if (Status s = left.card->read_opaque(left.stream, offset, a); !s) return s;
    if (Status s = right.card->read_opaque(right.stream, offset, b); !s) return s;
    for (std::size_t i = 0; i < a.size(); ++i) result.differing += a[i] != b[i];
  }
  result.value_count = size;
  result.verdict = result.differing == 0 ? ChunkVerdict::kEqual : ChunkVerdict::kDifferent;
  return {};
}

const FrameHeader* chunk_from(const Side& side, std::uint64_t first_token) {
  for (std::uint32_t frame : side.card->chunks(side.stream)) {
    if (side.card->frames()[frame].first_token == first_token) return &side.card->frames()[frame];
  }
  return nullptr;
}

ChunkComparison named(const StreamRecord& stream) {
  ChunkComparison result;
  result.layer = stream.layer;
  result.stream = static_cast<StreamKind>(stream.stream);
  return result;
}

}  // namespace

std::string_view name_of(ChunkVerdict verdict) {
  switch (verdict) {
    case ChunkVerdict::kEqual:
      return "equal";
    case ChunkVerdict::kEqualValues:
      return "equal values";
    case ChunkVerdict::kDifferent:
      return "different";
  }
  return "unknown";
}

Status compare_streams(const CompareSide& left, const CompareSide& right, const ParallelFor& parallel,
                       std::vector<ChunkComparison>& chunks, StreamComparison& total) {
  if (static_cast<StreamKind>(left.record().stream) == StreamKind::kOpaque) {
    chunks.push_back(named(left.record()));
    const Status status = compare_opaque(left, right, chunks.back());
    total.layer = left.record().layer;
    total.stream = StreamKind::kOpaque;
    total.value_count = chunks.back().value_count;
    total.differing = chunks.back().differing;
    return status;
  }
  std::vector<Job> jobs;
  for (std::uint32_t index : left.card->chunks(left.stream)) {
    const FrameHeader& frame = left.card->frames()[index];
    Job job{left, right, &frame, chunk_from(right, frame.first_token), named(left.record()), {}};
    job.result.first_token = frame.first_token;
    job.result.token_count = frame.token_count;
    jobs.push_back(std::move(job));
  }
  if (Status s = run(jobs, parallel, compare_chunk); !s) return s;
  const bool differs = std::any_of(jobs.begin(), jobs.end(),
                                   [](const Job& job) { return job.result.verdict == ChunkVerdict::kDifferent; });
  if (differs) {
    if (Status s = run(jobs, parallel, measure_chunk); !s) return s;
  }
  total = total_of(left.record(), jobs);
  for (const Job& job : jobs) {
    if (job.result.value_count > 0) chunks.push_back(job.result);
  }
  return {};
}

}  // namespace cachecard::cli
