#include "llama_live/live_inject.hpp"

#include <algorithm>
#include <optional>


namespace cachecard::llama_live {
namespace {

/// One injection. Invariant: until commit() nothing in the context changes; a commit that fails leaves what
/// it found.
class LiveInjection {
 public:
  LiveInjection(const CardReader& card, const LiveContext& live, const llama_cpp::ModelFacts& facts,
                llama_seq_id sequence, const LiveInjectOptions& options)
      : card_(card),
        context_(live.context),
        live_(live),
        facts_(facts),
        sequence_(sequence),
        options_(options),
        state_(options.scratch != nullptr ? *options.scratch : own_) {
    state_.clear();
  }

  Result<LiveInjectReport> run();

 private:
  Status match();
  Status check_room();
  Status stage();
  Status commit();
  Status set(llama_seq_id sequence);
  Status swap(llama_seq_id spare);
  Status copy();
  std::optional<llama_seq_id> spare_sequence() const;
  std::uint64_t others_hold() const;
  std::string name() const { return "sequence " + std::to_string(sequence_); }

  const CardReader& card_;
  llama_context* context_;
  const LiveContext& live_;
  const llama_cpp::ModelFacts& facts_;
  const llama_seq_id sequence_;
  const LiveInjectOptions& options_;
  LiveInjectReport report_;
  llama_cpp::StateTemplate target_;
  StateBlob own_;
  StateBlob& state_;
};

Status LiveInjection::match() {
  auto report = match_identity(card_.header().identity, facts_.identity, options_.allow);
  if (!report) return report.error();
  report_.match = *std::move(report);
  if (!report_.match.accepted) return report_.match.error;
  return {};
}

Status LiveInjection::check_room() {
  if (Status s = check_sequence(context_, sequence_); !s) return s;
  report_.token_count = options_.token_count != 0 ? options_.token_count : card_.header().token_count;
  report_.replaced_positions = positions_held(context_, sequence_);
  const std::uint32_t room = llama_n_ctx_seq(context_);
  if (report_.token_count >= room) {
    return Error{ErrorCode::kTargetTooSmall,
                 kNoOffset,
                 {},
                 "a sequence of the context holds " + std::to_string(room) + " tokens, the card needs " +
                     std::to_string(report_.token_count) + " and one to go on"};
  }
  if (report_.replaced_positions > 0 && !options_.replace) {
    return Error{ErrorCode::kTargetBusy,
                 kNoOffset,
                 {},
                 name() + " holds " + std::to_string(report_.replaced_positions) +
                     " positions, and replace is not set"};
  }
  return {};
}

Status LiveInjection::stage() {
  auto target = live_template(live_, facts_, sequence_);
  if (!target) return target.error();
  target_ = *std::move(target);
  if (Status s = card_.check_other_sections(report_.token_count); !s) return s;
  llama_cpp::StateWriteOptions writing;
  writing.token_count = report_.token_count;
  writing.position_shift = options_.position_shift;
  writing.allow_nonfinite = options_.allow_nonfinite;
  writing.parallel = options_.parallel;
  writing.progress = options_.progress;
  auto written = llama_cpp::write_state(card_, target_, state_, writing);
  if (!written) return written.error();
  report_.next_position = written->next_position;
  report_.state_bytes = written->file_size;
  report_.nonfinite_values = written->nonfinite_values;
  report_.max_conversion_loss = written->max_conversion_loss;
  report_.notes = std::move(written->notes);
  return {};
}

/// Positions of the other sequences that share the cache, an upper bound of their cells.
std::uint64_t LiveInjection::others_hold() const {
  if (!target_.caches.empty() && target_.caches[0].n_stream > 1) return 0;
  std::uint64_t count = 0;
  for (llama_seq_id other = 0; other < static_cast<llama_seq_id>(llama_n_seq_max(context_)); ++other) {
    if (other != sequence_) count += positions_held(context_, other);
  }
  return count;
}

/// libllama says why only in its log. Full cells are the usual cause.
Status LiveInjection::set(llama_seq_id sequence) {
  if (set_sequence(context_, sequence, state_.bytes())) return {};
  const std::uint64_t others = others_hold();
  const bool full = others + report_.token_count > llama_n_ctx_seq(context_);
  return Error{full ? ErrorCode::kTargetTooSmall : ErrorCode::kGeometryMismatch,
               kNoOffset,
               {},
               full ? "other sequences hold up to " + std::to_string(others) + " of the context's " +
                          std::to_string(llama_n_ctx_seq(context_)) + " cells"
                    : "libllama refused the state (its log says why): are params those that the context was "
                      "made with?"};
}

/// A sequence without cells. Only where sequences share their cells is a swap mere bookkeeping, and only a
/// plain attention cache is emptied again when libllama refuses a state.
std::optional<llama_seq_id> LiveInjection::spare_sequence() const {
  if (target_.caches.size() != 1 || target_.caches[0].n_stream > 1) return std::nullopt;
  const std::uint64_t cells = others_hold() + report_.replaced_positions + report_.token_count;
  if (cells > llama_n_ctx_seq(context_)) return std::nullopt;
  for (llama_seq_id other = 0; other < static_cast<llama_seq_id>(llama_n_seq_max(context_)); ++other) {
    if (other != sequence_ && positions_held(context_, other) == 0) return other;
  }
  return std::nullopt;
}

Status LiveInjection::swap(llama_seq_id spare) {
  if (Status s = set(spare); !s) return s;
  const llama_memory_t memory = llama_get_memory(context_);
  (void)llama_memory_seq_rm(memory, sequence_, -1, -1);
  llama_memory_seq_cp(memory, spare, sequence_, -1, -1);
  (void)llama_memory_seq_rm(memory, spare, -1, -1);
  report_.kept_by = KeptBy::kSwap;
  return {};
}

Status LiveInjection::copy() {
  auto kept = read_sequence(context_, sequence_, options_.copy_limit_bytes);
  if (!kept) return kept.error();
  report_.kept_by = KeptBy::kCopy;
  Status status = set(sequence_);
  if (status || set_sequence(context_, sequence_, kept->bytes())) return status;
  return Error{
      ErrorCode::kTargetUnavailable,
      kNoOffset,
      {},
      status.error().detail + "; libllama refused what " + name() + " held before, too: it is empty now"};
}

Status LiveInjection::commit() {
  if (report_.replaced_positions == 0) return set(sequence_);
  if (const auto spare = spare_sequence()) return swap(*spare);
  return copy();
}

Result<LiveInjectReport> LiveInjection::run() {
  static constexpr Status (LiveInjection::*kSteps[])() = {&LiveInjection::match, &LiveInjection::check_room,
                                                          &LiveInjection::stage, &LiveInjection::commit};
  for (const auto step : kSteps) {
    if (Status s = (this->*step)(); !s) return s.error();
  }
  return std::move(report_);
}

}  // namespace

Result<LiveInjectReport> inject(const CardReader& card, const LiveContext& live,
                                const llama_cpp::ModelFacts& facts, llama_seq_id sequence,
                                const LiveInjectOptions& options) {
  return LiveInjection(card, live, facts, sequence, options).run();
}

}  // namespace cachecard::llama_live
