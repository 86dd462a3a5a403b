#include "edit/extend_check.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <map>
#include <optional>

#include "kernel/floats.hpp"
#include "kernel/ggml_blocks.hpp"
#include "reader/chunk_rows.hpp"
#include "writer/chunk_jobs.hpp"

namespace cachecard {
namespace {

/// What rounding may add to a row's difference, relative to the row: to the element type once at each side, and the codec's
/// own f32 steps.
double rounding_of(DType dtype) {
  return (dtype == DType::kF16 ? 0x1p-10 : dtype == DType::kBf16 ? 0x1p-7 : 0.0) + 0x1p-16;
}
constexpr double kSmallestHalf = 0x1p-24;  ///< f16's subnormals: an absolute error

/// A chunk and the rows of it that are compared.
struct Job {
  const FrameHeader* frame = nullptr;
  std::size_t stream = 0;  ///< of the state
  TokenSpan tokens{};
  double magnitude = 1.0;  ///< that RoPE multiplies the codec's error with
  std::optional<Misfit> misfit;
  Status status;
};

std::map<std::uint64_t, double> magnitudes(const CardReader& base) {
  std::map<std::uint64_t, double> found;
  for (std::size_t i = 0; i < base.frames().size(); ++i) {
    if (base.frames()[i].section_type != static_cast<std::uint16_t>(SectionType::kRopeTable)) continue;
    const auto payload = base.read_section(i);
    if (!payload) continue;  // whoever needs the table says so
    if (const auto table = parse_rope_table(*payload)) found[base.frames()[i].stored_digest] = table->record.magnitude;
  }
  return found;
}

/// Length of the difference of two rows, and of the first.
struct Distance {
  double difference = 0.0;
  double length = 0.0;
};

Distance distance_of(DType dtype, std::span<const std::byte> a, std::span<const std::byte> b, std::vector<float>& left,
                     std::vector<float>& right) {
  kernel::to_f32(dtype, a, left);
  kernel::to_f32(dtype, b, right);
  Distance distance;
  for (std::size_t i = 0; i < left.size(); ++i) {
    const double d = double{left[i]} - double{right[i]};
    distance.difference += d * d;
    distance.length += double{left[i]} * double{left[i]};
  }
  return {std::sqrt(distance.difference), std::sqrt(distance.length)};
}

Status compare(const CardReader& base, const CacheSource& state, Job& job) {
  const FrameHeader& frame = *job.frame;
  const StreamRecord& stream = state.header().streams[job.stream];
  const auto dtype = static_cast<DType>(stream.dtype);
  const std::size_t row_size = row_bytes(stream, dtype);
  std::vector<std::byte> mine(job.tokens.token_count * row_size);
  std::vector<std::byte> theirs(mine.size());
  if (Status s = state.read_rows(job.stream, job.tokens.first_token, job.tokens.token_count, theirs); !s) return s;
  const std::size_t base_stream = *base.header().stream_index(stream.layer, static_cast<StreamKind>(stream.stream));
  std::vector<std::byte> scratch(base.scratch_bytes(base_stream));
  auto rows = ChunkRows::open(base, frame, scratch);
  if (!rows) return rows.error();
  const std::uint64_t skip = job.tokens.first_token - frame.first_token;
  rows->put_rows(skip, job.tokens.token_count, mine);
  std::vector<double> bounds(frame.token_count);
  rows->add_squared_bounds(bounds);
  const std::size_t elements = row_elements(stream);
  std::vector<float> left(elements), right(elements);
  for (std::uint64_t t = 0; t < job.tokens.token_count; ++t) {
    const auto a = std::span(theirs).subspan(t * row_size, row_size);
    const auto b = std::span(mine).subspan(t * row_size, row_size);
    if (std::memcmp(a.data(), b.data(), row_size) == 0) continue;
    const Distance distance = distance_of(dtype, a, b, left, right);
    const double bound = bounds[skip + t];
    double allowed = 0.0;
    if (bound > 0.0) {
      allowed = std::sqrt(bound) * job.magnitude + distance.length * rounding_of(dtype) +
                kSmallestHalf * std::sqrt(static_cast<double>(elements));
    }
    if (bound > 0.0 && distance.difference <= allowed) continue;
    const double count = std::sqrt(static_cast<double>(elements));
    job.misfit = Misfit{job.stream, job.tokens.first_token + t, distance.difference / count, allowed / count};
    return {};
  }
  return {};
}

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.3g", value);
  return text;
}

}  // namespace

Result<std::vector<Misfit>> find_misfits(const CardReader& base, const CacheSource& state, TokenSpan tokens,
                                         const ParallelFor& parallel) {
  const auto table_magnitudes = magnitudes(base);
  std::vector<Job> jobs;
  for (std::size_t s = 0; s < state.header().streams.size(); ++s) {
    const StreamRecord& stream = state.header().streams[s];
    const auto base_stream = base.header().stream_index(stream.layer, static_cast<StreamKind>(stream.stream));
    if (is_opaque(stream) || !base_stream) continue;
    for (const std::uint32_t index : base.chunks(*base_stream)) {
      const FrameHeader& frame = base.frames()[index];
      const std::uint64_t first = std::max({frame.first_token, tokens.first_token, stream.first_token});
      const std::uint64_t end = std::min({frame.first_token + frame.token_count, tokens.first_token + tokens.token_count,
                                          stream.first_token + stream.token_count});
      if (first >= end) continue;
      Job job{&frame, s, {first, end - first}, 1.0, {}, {}};
      if (frame.parameter_digest != 0) {
        auto parameters = base.parameters(frame.parameter_digest);
        if (!parameters) return parameters.error();
        const auto found = table_magnitudes.find(parameters->record.rope_table_digest);
        if (found != table_magnitudes.end()) job.magnitude = std::max(1.0, found->second);
      }
      jobs.push_back(std::move(job));
    }
  }
  struct Batch {
    const CardReader& base;
    const CacheSource& state;
    std::vector<Job>& jobs;
  } batch{base, state, jobs};
  parallel(
      jobs.size(),
      [](void* context, std::size_t i) {
        auto& b = *static_cast<Batch*>(context);
        b.jobs[i].status = compare(b.base, b.state, b.jobs[i]);
      },
      &batch);
  std::vector<Misfit> misfits;
  for (const Job& job : jobs) {
    if (!job.status) return job.status.error();
    if (job.misfit) misfits.push_back(*job.misfit);
  }
  return misfits;
}

Error misfit_error(const CardHeader& state, const Misfit& misfit) {
  const StreamRecord& stream = state.streams[misfit.stream];
  return {ErrorCode::kModelMismatch, kNoOffset, "values",
          "layer " + std::to_string(stream.layer) + " " + std::string(name_of(static_cast<StreamKind>(stream.stream))) +
              ", token " + std::to_string(misfit.token) + ": STATE is " + number(misfit.distance) +
              " from BASE (root mean square), allowed " + (misfit.allowed > 0.0 ? number(misfit.allowed) : "no difference")};
}

}  // namespace cachecard
