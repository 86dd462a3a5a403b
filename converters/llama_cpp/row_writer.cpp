#include "row_writer.hpp"

#include <algorithm>
#include <atomic>
#include <mutex>

#include "float_types.hpp"

namespace cachecard::llama_cpp {
namespace {

constexpr std::size_t kChannelsAtOnce = 64;
constexpr std::uint64_t kPieceBytes = 4u << 20;

struct RowJob {
  std::size_t target = 0;
  std::uint64_t first_token = 0;
  std::uint64_t token_count = 0;
};

/// What one worker needs; its report is added up at the end.
struct Worker {
  RowBuffers buffers;
  Buffer channels;
  RowReport report;
};

/// Shared by all workers. Invariant: failed_ is set once error_ is, under mutex_.
class RowWork {
 public:
  RowWork(const CardReader& card, const std::vector<RowTarget>& targets, RandomSink& sink,
          const StateWriteOptions& options, bool check_finite)
      : card_(card), targets_(targets), sink_(sink), options_(options), check_(check_finite) {}

  void plan();
  Result<RowReport> run();

 private:
  void work();
  std::span<std::byte> place_of(const RowJob& job, const RowTarget& target) const;
  Status copy(const RowJob& job, Worker& worker);
  Status check(const RowJob& job, const RowTarget& target, const ChangedRows& rows, Worker& worker) const;
  Error nonfinite(const RowTarget& target, const std::string& where) const;
  Status write(const RowJob& job, const RowTarget& target, std::span<const std::byte> rows,
               Worker& worker) const;
  Status write_channels(const CellRun& part, const RowTarget& target, std::span<const std::byte> rows,
                        Worker& worker) const;
  Status advance(std::uint64_t size);
  std::uint64_t row_size(const RowTarget& target) const {
    return row_bytes(card_.header().streams[target.stream], target.form.dtype);
  }

  const CardReader& card_;
  const std::vector<RowTarget>& targets_;
  RandomSink& sink_;
  const StateWriteOptions& options_;
  bool check_;
  std::vector<RowJob> jobs_;
  std::uint64_t total_ = 0;
  std::atomic<std::size_t> next_{0};
  std::atomic<bool> failed_{false};
  std::mutex mutex_;
  Error error_;
  RowReport report_;
  std::uint64_t done_ = 0;
};

/// One job for each chunk that a target needs something of.
void RowWork::plan() {
  for (std::size_t i = 0; i < targets_.size(); ++i) {
    const RowTarget& target = targets_[i];
    if (target.runs->empty()) continue;
    const std::uint64_t first = target.runs->front().first_token;
    const std::uint64_t end = target.runs->back().first_token + target.runs->back().token_count;
    for (const std::uint32_t frame_index : card_.chunks(target.stream)) {
      const FrameHeader& frame = card_.frames()[frame_index];
      const std::uint64_t from = std::max(frame.first_token, first);
      const std::uint64_t to = std::min(frame.first_token + frame.token_count, end);
      if (from >= to) continue;
      jobs_.push_back({i, from, to - from});
      total_ += (to - from) * row_size(target);
    }
  }
}

Result<RowReport> RowWork::run() {
  const std::size_t width = std::max<std::size_t>(options_.parallel.width, 1);
  options_.parallel(
      std::min(width, jobs_.size()),
      [](void* context, std::size_t) { static_cast<RowWork*>(context)->work(); }, this);
  if (failed_) return error_;
  return report_;
}

void RowWork::work() {
  Worker worker;
  while (!failed_) {
    const std::size_t index = next_++;
    if (index >= jobs_.size()) break;
    const Status status = copy(jobs_[index], worker);
    if (status) continue;
    const std::scoped_lock lock(mutex_);
    if (!failed_) error_ = status.error();
    failed_ = true;
  }
  const std::scoped_lock lock(mutex_);
  report_.nonfinite_values += worker.report.nonfinite_values;
  report_.max_conversion_loss = std::max(report_.max_conversion_loss, worker.report.max_conversion_loss);
}

/// Where a job's rows go as they are, if they go there in one piece and the sink has the place in memory.
std::span<std::byte> RowWork::place_of(const RowJob& job, const RowTarget& target) const {
  if (target.transposed) return {};
  for (const CellRun& run : *target.runs) {
    const bool inside = run.first_token <= job.first_token &&
                        job.first_token + job.token_count <= run.first_token + run.token_count;
    if (!inside) continue;
    const std::uint64_t cell = run.first_cell + (job.first_token - run.first_token);
    return sink_.place(target.offset + cell * row_size(target), job.token_count * row_size(target));
  }
  return {};
}

Status RowWork::copy(const RowJob& job, Worker& worker) {
  const RowTarget& target = targets_[job.target];
  worker.buffers.out = place_of(job, target);
  worker.buffers.counts = check_;
  auto rows =
      changed_rows(card_, target.stream, job.first_token, job.token_count, target.form, worker.buffers);
  if (!rows) return rows.error();
  worker.report.max_conversion_loss = std::max(worker.report.max_conversion_loss, rows->loss);
  auto status = check(job, target, *rows, worker);
  if (status && worker.buffers.out.empty()) status = write(job, target, rows->bytes, worker);
  if (!status) return status;
  return advance(rows->bytes.size());
}

Status RowWork::check(const RowJob& job, const RowTarget& target, const ChangedRows& rows,
                      Worker& worker) const {
  if (rows.nonfinite_values != 0) {
    return nonfinite(target, "tokens " + std::to_string(job.first_token) + " to " +
                                 std::to_string(job.first_token + job.token_count - 1));
  }
  const std::uint64_t count =
      !check_ ? 0 : rows.nonfinite_rows ? *rows.nonfinite_rows : count_nonfinite(target.form.dtype, rows.bytes);
  if (count == 0) return {};
  worker.report.nonfinite_values += count;
  if (options_.allow_nonfinite) return {};
  const std::uint64_t size = row_size(target);
  std::uint64_t token = 0;
  while (count_nonfinite(target.form.dtype, rows.bytes.subspan(token * size, size)) == 0) ++token;
  return nonfinite(target, "token " + std::to_string(job.first_token + token));
}

Error RowWork::nonfinite(const RowTarget& target, const std::string& where) const {
  const StreamRecord& stream = card_.header().streams[target.stream];
  const bool converted = static_cast<DType>(stream.dtype) != target.form.dtype;
  return {ErrorCode::kNonFinite, kNoOffset, "stream",
          std::string(name_of(static_cast<StreamKind>(stream.stream))) + " of layer " +
              std::to_string(stream.layer) + ", " + where + ": NaN or infinite as " +
              std::string(name_of(target.form.dtype)) +
              (converted ? " (the card has " + std::string(name_of(static_cast<DType>(stream.dtype))) + ")"
                         : "")};
}

Status RowWork::write(const RowJob& job, const RowTarget& target, std::span<const std::byte> rows,
                      Worker& worker) const {
  const std::uint64_t size = row_size(target);
  const std::uint64_t end = job.first_token + job.token_count;
  auto run = std::upper_bound(
      target.runs->begin(), target.runs->end(), job.first_token,
      [](std::uint64_t token, const CellRun& r) { return token < r.first_token + r.token_count; });
  for (; run != target.runs->end() && run->first_token < end; ++run) {
    CellRun part;
    part.first_token = std::max(run->first_token, job.first_token);
    part.token_count = std::min(run->first_token + run->token_count, end) - part.first_token;
    part.first_cell = run->first_cell + (part.first_token - run->first_token);
    const auto bytes = rows.subspan((part.first_token - job.first_token) * size, part.token_count * size);
    const auto status = target.transposed ? write_channels(part, target, bytes, worker)
                                          : sink_.write_at(target.offset + part.first_cell * size, bytes);
    if (!status) return status;
  }
  return {};
}

Status RowWork::write_channels(const CellRun& part, const RowTarget& target, std::span<const std::byte> rows,
                               Worker& worker) const {
  const std::size_t element = dtype_info(target.form.dtype)->block_bytes;
  const std::size_t channel_count = row_size(target) / element;
  const std::size_t count = part.token_count;
  for (std::size_t first = 0; first < channel_count; first += kChannelsAtOnce) {
    const std::size_t channels = std::min(kChannelsAtOnce, channel_count - first);
    const auto block = worker.channels.get(channels * count * element);
    transpose({element, channel_count, count, first, channels}, rows, block);
    if (count == target.cell_count) {  // whole channels lie side by side
      auto status = sink_.write_at(target.offset + first * count * element, block);
      if (!status) return status;
      continue;
    }
    for (std::size_t i = 0; i < channels; ++i) {
      const std::uint64_t cell = (first + i) * target.cell_count + part.first_cell;
      auto status =
          sink_.write_at(target.offset + cell * element, block.subspan(i * count * element, count * element));
      if (!status) return status;
    }
  }
  return {};
}

Status RowWork::advance(std::uint64_t size) {
  if (!options_.progress) return {};
  const std::scoped_lock lock(mutex_);
  done_ += size;
  if (options_.progress(done_, total_)) return {};
  return Error{ErrorCode::kInterrupted, kNoOffset, {}, "stopped while writing rows"};
}

}  // namespace

Result<RowReport> write_rows(const CardReader& card, const std::vector<RowTarget>& targets, RandomSink& sink,
                             const StateWriteOptions& options, bool check_finite) {
  RowWork work(card, targets, sink, options, check_finite);
  work.plan();
  return work.run();
}

Status write_opaque(const CardReader& card, std::size_t stream_index, std::uint64_t offset,
                    RandomSink& sink) {
  const std::uint64_t size = card.header().streams[stream_index].opaque_size;
  std::vector<std::byte> piece(std::min(size, kPieceBytes));
  for (std::uint64_t done = 0; done < size;) {
    const auto count = static_cast<std::size_t>(std::min<std::uint64_t>(size - done, piece.size()));
    auto status = card.read_opaque(stream_index, done, std::span(piece).first(count));
    if (!status) return status;
    status = sink.write_at(offset + done, std::span(piece).first(count));
    if (!status) return status;
    done += count;
  }
  return {};
}

}  // namespace cachecard::llama_cpp
