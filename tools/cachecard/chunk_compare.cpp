#include <algorithm>
#include <cmath>
#include <cstring>

#include "card_compare.hpp"

namespace cachecard::cli {
namespace {

constexpr std::uint64_t kPieceValues = 1u << 22;
constexpr std::uint64_t kPieceBytes = 1u << 20;

struct Side {
  const CardReader* card;
  std::size_t stream;

  const StreamRecord& record() const { return card->header().streams[stream]; }
};

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
  if (job.other == nullptr) return false;
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
  DecodeTarget target;
  target.base = values.data();
  target.channel_stride = sizeof(float);
  target.head_stride = target.channel_stride * record.head_dim;
  target.token_stride = target.head_stride * record.kv_head_count;
  if (Status s = side.card->decode(request, target); !s) return s.error();
  return values;
}

void compare_values(std::span<const float> a, std::span<const float> b, ChunkComparison& result) {
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (std::memcmp(&a[i], &b[i], sizeof(float)) == 0) continue;
    ++result.differing;
    const double distance = std::abs(double(a[i]) - double(b[i]));
    if (std::isfinite(distance)) result.max_abs = std::max(result.max_abs, distance);
  }
}

bool same_bytes_compare(const StreamRecord& a, const StreamRecord& b) {
  return a.dtype == b.dtype && a.hadamard_size == b.hadamard_size;
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
    compare_values(*a, *b, job.result);
  }
  job.result.verdict = job.result.differing == 0 ? ChunkVerdict::kEqualValues : ChunkVerdict::kDifferent;
  return {};
}

/// The part of the chunk that both cards hold; the rest is a difference of structure.
Status compare_chunk(Job& job) {
  const StreamRecord& other = job.right.record();
  const std::uint64_t first = std::max(job.frame->first_token, other.first_token);
  const std::uint64_t end =
      std::min(job.frame->first_token + job.frame->token_count, other.first_token + other.token_count);
  const std::uint64_t count = end > first ? end - first : 0;
  job.result.value_count = count * row_elements(other);
  if (same_stored(job)) return {};
  if (same_bytes_compare(job.left.record(), other)) {
    auto a = rows_of(job.left, first, count);
    if (!a) return a.error();
    auto b = rows_of(job.right, first, count);
    if (!b) return b.error();
    job.result.verdict = ChunkVerdict::kEqualValues;
    if (*a == *b) return {};
  }
  return compare_decoded(job, first, count);
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

Status compare_streams(const CardReader& left, std::size_t left_stream, const CardReader& right,
                       std::size_t right_stream, const ParallelFor& parallel,
                       std::vector<ChunkComparison>& chunks) {
  const Side a{&left, left_stream};
  const Side b{&right, right_stream};
  if (static_cast<StreamKind>(a.record().stream) == StreamKind::kOpaque) {
    chunks.push_back(named(a.record()));
    return compare_opaque(a, b, chunks.back());
  }
  std::vector<Job> jobs;
  for (std::uint32_t index : left.chunks(left_stream)) {
    const FrameHeader& frame = left.frames()[index];
    Job job{a, b, &frame, chunk_from(b, frame.first_token), named(a.record()), {}};
    job.result.first_token = frame.first_token;
    job.result.token_count = frame.token_count;
    jobs.push_back(std::move(job));
  }
  parallel(
      jobs.size(),
      [](void* context, std::size_t index) {
        Job& job = static_cast<Job*>(context)[index];
        job.status = compare_chunk(job);
      },
      jobs.data());
  for (Job& job : jobs) {
    if (!job.status) return job.status;
    if (job.result.value_count > 0) chunks.push_back(job.result);
  }
  return {};
}

}  // namespace cachecard::cli
