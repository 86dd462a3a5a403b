#include "llama_server/inject.hpp"

#include <unistd.h>

#include <array>
#include <optional>

#include "cachecard/digest.hpp"
#include "llama_server/journal.hpp"
#include "llama_server/slot_template.hpp"
#include "llama_server/stage.hpp"

namespace cachecard::llama_server {
namespace {

Error slot_changed(std::uint32_t slot) {
  return {ErrorCode::kTargetBusy, kNoOffset, {}, "another request came into slot " + std::to_string(slot)};
}

bool same_state(const SlotInfo& a, const SlotInfo& b) {
  return !a.busy && !b.busy && a.task == b.task && a.tokens == b.tokens;
}

/// The slot must hold the tokens and one more, or nothing could follow.
Status check_room(const SlotView& view, std::uint64_t token_count) {
  if (!view.shown || view.slot.context > token_count) return {};
  return Error{ErrorCode::kTargetTooSmall,
               kNoOffset,
               {},
               "slot " + std::to_string(view.slot.id) + " holds " + std::to_string(view.slot.context) +
                   " tokens, the card needs " + std::to_string(token_count) + " and one to go on"};
}

/// One injection. Invariant: from begin() on, the journal on disk says what may have happened to
/// the slot; it goes only when the slot wholly holds the card or is as it was.
class Injection {
 public:
  Injection(const CardReader& card, ServerClient& client, const ServerFacts& server,
            const llama_cpp::ModelFacts& model, const InjectOptions& options)
      : card_(card),
        client_(client),
        server_(server),
        model_(model),
        options_(options),
        access_(options.access),
        names_(options.access.slot) {}

  Result<InjectReport> run();

 private:
  struct Step {
    const char* name;
    Status (Injection::*act)();
  };

  Status wait();
  Status begin();
  Status save_old();
  Status find_layout();
  Status stage();
  Status restore();

  Status advance(InjectStep step);
  Status check_unchanged();
  Error undo(const Error& cause);
  std::string slot_name() const { return "slot " + std::to_string(access_.slot); }
  void write_notes(const llama_cpp::StateWriteReport& staged);

  const CardReader& card_;
  ServerClient& client_;
  const ServerFacts& server_;
  const llama_cpp::ModelFacts& model_;
  const InjectOptions& options_;
  const SlotAccess& access_;
  const SlotFileNames names_;

  InjectReport report_;
  SlotView view_;  ///< the slot as no one but us may have changed it since
  std::optional<SlotLock> lock_;
  std::optional<Journal> journal_;  ///< as on disk
  SavedSlot old_;
  SlotTemplate layout_;
  bool touched_ = false;   ///< the slot may hold something else than before
  bool restored_ = false;  ///< the server was told to take the new file
  bool taken_ = false;     ///< another request came into the slot: it is no longer ours to put back
};

Status Injection::advance(InjectStep step) {
  Journal next = *journal_;
  next.step = step;
  if (Status s = write_journal(access_.folder, next); !s) return s;
  journal_ = next;
  return {};
}

Status Injection::wait() {
  auto count = prefix_of(card_.header(), options_.token_count);
  if (!count) return count.error();
  report_.token_count = *count;
  auto view = wait_until_idle(client_, access_);
  if (!view) return view.error();
  view_ = std::move(*view);
  return check_room(view_, report_.token_count);
}

Status Injection::begin() {
  auto lock = SlotLock::take(access_.folder, access_.slot);
  if (!lock) return lock.error();
  lock_.emplace(std::move(*lock));
  auto left = read_journal(access_.folder, access_.slot);
  if (!left) return left.error();
  if (*left) {
    return Error{ErrorCode::kTargetBusy,
                 kNoOffset,
                 {},
                 "an injection into " + slot_name() + " was not finished (" +
                     std::string(name_of((*left)->step)) + "): run inject --recover first"};
  }
  auto tokens = card_.token_ids();
  if (!tokens) return tokens.error();
  tokens->resize(static_cast<std::size_t>(report_.token_count));
  Journal journal;
  journal.server = client_.url();
  journal.instance = server_.instance;
  journal.slot = access_.slot;
  journal.process = ::getpid();
  journal.new_tokens = report_.token_count;
  journal.new_digest = digest64(std::as_bytes(std::span(*tokens)));
  if (Status s = write_journal(access_.folder, journal); !s) return s;
  journal_ = std::move(journal);
  return {};
}

Status Injection::save_old() {
  auto saved =
      save_slot(client_, access_, access_.slot, names_.safety, &model_, action_time(access_, view_.shown));
  if (!saved) return saved.error();
  old_ = std::move(*saved);
  report_.old_tokens = old_.token_count;
  if (old_.token_count > 0) {
    if (Status s = sync_file(access_.path(names_.safety)); !s) return s;
  }
  journal_->old_tokens = old_.token_count;
  journal_->old_bytes = old_.file_size;
  return advance(InjectStep::kSaved);
}

Status Injection::find_layout() {
  const TemplateQuestion question{
      old_, view_, server_.total_slots, options_.like, names_.sample, &model_, [this] {
        touched_ = true;
        return advance(InjectStep::kProbing);
      }};
  auto found = find_template(client_, access_, question);
  if (!found) {
    taken_ = touched_ && client_.answered() && found.error().code == ErrorCode::kTargetBusy;
    return found.error();
  }
  layout_ = std::move(*found);
  report_.template_from = layout_.from;
  if (!layout_.probed) return {};
  auto view = look_at_slots(client_, access_);
  if (!view) return view.error();
  taken_ = view->shown && (view->slot.busy || view->slot.tokens != std::uint64_t{1});
  if (taken_) return slot_changed(access_.slot);
  view_ = std::move(*view);
  return {};
}

Status Injection::stage() {
  StageOptions staging;
  staging.token_count = report_.token_count;
  staging.allow_nonfinite = options_.allow_nonfinite;
  staging.parallel = options_.parallel;
  staging.progress = [this](std::uint64_t done, std::uint64_t total) {
    return !access_.stop() && (!options_.progress || options_.progress(done, total));
  };
  auto staged = stage_card(card_, layout_.layout, &model_, access_.path(names_.staged), staging);
  if (!staged) return staged.error();
  report_.file_size = staged->file_size;
  report_.next_position = staged->next_position;
  report_.nonfinite_values = staged->nonfinite_values;
  report_.max_conversion_loss = staged->max_conversion_loss;
  write_notes(*staged);
  return {};
}

Status Injection::check_unchanged() {
  auto now = look_at_slots(client_, access_);
  if (!now) return now.error();
  taken_ = now->shown && !same_state(now->slot, view_.slot);
  if (taken_) return slot_changed(access_.slot);
  return {};
}

Status Injection::restore() {
  if (Status s = advance(InjectStep::kRestoring); !s) return s;
  // From here to the server's reading of the file is the window that is left: two local calls.
  if (Status s = check_unchanged(); !s) return s;
  touched_ = restored_ = true;
  auto reply = client_.restore(access_.slot, names_.staged, action_time(access_, view_.shown));
  if (!reply) return reply.error();
  if (reply->tokens == report_.token_count && reply->bytes == report_.file_size) return {};
  return Error{ErrorCode::kTargetUnavailable,
               kNoOffset,
               {},
               "the server restored " + std::to_string(reply->tokens) + " of " +
                   std::to_string(report_.token_count) + " tokens"};
}

void Injection::write_notes(const llama_cpp::StateWriteReport& staged) {
  report_.notes = staged.notes;
  const bool shared = !layout_.layout.caches.empty() && server_.total_slots > 1 &&
                      layout_.layout.caches.front().n_stream == 1;
  if (shared) {
    report_.notes.push_back("the server's " + std::to_string(server_.total_slots) +
                            " slots share one cache: a request on another slot may clear " + slot_name());
  }
  if (card_.header().restorable == Restorable::kWholeOnly) {
    report_.notes.push_back("recurrent state serves only prompts that are longer than the card");
  }
}

/// Makes the slot what it was and says so, or says why that is not known.
Error Injection::undo(const Error& cause) {
  Error error = cause;
  const auto say = [&error](const std::string& what) {
    error.detail += (error.detail.empty() ? "" : "; ") + what;
  };
  if (!journal_) return error;
  if (!client_.answered()) {
    say(touched_ ? "what " + slot_name() +
                       " holds is not known (as before, empty, or the card): run inject "
                       "--recover when the server answers"
                 : slot_name() + " was not touched: inject --recover removes the journal");
    return error;
  }
  if (layout_.probed && !restored_ && !taken_) (void)check_unchanged();
  if (taken_) {
    say(slot_name() + " is left to it");
  } else if (touched_) {
    (void)advance(InjectStep::kPuttingBack);
    const Status back = put_back(client_, access_, names_.safety, journal_->old_tokens, journal_->old_bytes,
                                 &model_, action_time(access_, view_.shown));
    if (!back) {
      say(slot_name() + " could not be put back (" + back.error().message() + "): run inject --recover");
      return error;
    }
  }
  if (!taken_) say(slot_name() + " is as it was");
  if (Status s = remove_slot_files(access_.folder, access_.slot); !s) say(s.error().detail);
  return error;
}

Result<InjectReport> Injection::run() {
  static constexpr std::array kSteps{
      Step{"wait", &Injection::wait},     Step{"journal", &Injection::begin},
      Step{"save", &Injection::save_old}, Step{"template", &Injection::find_layout},
      Step{"stage", &Injection::stage},   Step{"restore", &Injection::restore}};
  StepClock clock;
  for (const Step& step : kSteps) {
    Status done = (this->*step.act)();
    if (done && access_.stop()) done = Error{ErrorCode::kInterrupted, kNoOffset, {}, ""};
    if (!done) return undo(done.error());
    clock.lap(step.name, report_.times);
  }
  if (Status s = remove_slot_files(access_.folder, access_.slot); !s) {
    report_.notes.push_back(s.error().detail);
  }
  return std::move(report_);
}

}  // namespace

Result<InjectReport> inject(const CardReader& card, ServerClient& client, const ServerFacts& server,
                            const llama_cpp::ModelFacts& model, const InjectOptions& options) {
  return Injection(card, client, server, model, options).run();
}

Result<InjectReport> rehearse(const CardReader& card, ServerClient& client, const InjectOptions& options) {
  auto count = prefix_of(card.header(), options.token_count);
  if (!count) return count.error();
  auto view = wait_until_idle(client, options.access);
  if (!view) return view.error();
  if (Status s = check_room(*view, *count); !s) return s.error();
  auto left = read_journal(options.access.folder, options.access.slot);
  if (!left) return left.error();
  InjectReport report;
  report.token_count = *count;
  report.old_tokens = view->slot.tokens.value_or(0);
  if (*left) report.notes.push_back("an unfinished injection must be undone first (--recover)");
  if (Status s = card.check_other_sections(0); !s) return s.error();
  return report;
}

}  // namespace cachecard::llama_server
