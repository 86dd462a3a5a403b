#include "llama_server/recover.hpp"

#include "cachecard/digest.hpp"
#include "llama_server/journal.hpp"
#include "llama_server/slot_template.hpp"

namespace cachecard::llama_server {
namespace {

/// What the slot holds, measured by token ids.
enum class Holds : std::uint8_t { kOld, kOurs, kOther };

Result<Holds> what_it_holds(const SlotAccess& access, const Journal& journal, const SavedSlot& now,
                            const llama_cpp::ModelFacts* model) {
  const std::vector<std::int32_t>& tokens = now.state.token_ids;
  const bool safety_known = journal.step != InjectStep::kSaving;
  if (safety_known && journal.old_tokens > 0) {
    auto old = read_slot_file(access.path(SlotFileNames(access.slot).safety), model);
    if (!old) return old.error();
    if (old->state.token_ids == tokens) return Holds::kOld;
  } else if (tokens.empty() || !safety_known) {
    return Holds::kOld;  // while saving, nothing was done to the slot
  }
  const bool probe = tokens.size() == 1 && tokens.front() == kProbeToken;
  const bool card =
      tokens.size() == journal.new_tokens && digest64(std::as_bytes(std::span(tokens))) == journal.new_digest;
  return tokens.empty() || probe || card ? Holds::kOurs : Holds::kOther;
}

Result<SavedSlot> save_now(ServerClient& client, const SlotAccess& access,
                           const llama_cpp::ModelFacts* model) {
  auto view = wait_until_idle(client, access);
  if (!view) return view.error();
  return save_slot(client, access, access.slot, SlotFileNames(access.slot).sample, model,
                   action_time(access, view->shown));
}

}  // namespace

std::string_view name_of(Recovery recovery) noexcept {
  switch (recovery) {
    case Recovery::kNothing:
      return "nothing";
    case Recovery::kUntouched:
      return "untouched";
    case Recovery::kPutBack:
      return "put_back";
    case Recovery::kLeft:
      return "left";
  }
  return "unknown";
}

Result<RecoverReport> recover(ServerClient& client, const SlotAccess& access,
                              const llama_cpp::ModelFacts* model) {
  auto lock = SlotLock::take(access.folder, access.slot);
  if (!lock) return lock.error();
  auto journal = read_journal(access.folder, access.slot);
  if (!journal) return journal.error();
  RecoverReport report;
  if (!*journal) {
    // Killed between removing the journal and its files: the slot is settled, the files are litter.
    if (Status s = remove_slot_files(access.folder, access.slot); !s) return s.error();
    return report;
  }
  report.step = name_of((*journal)->step);
  report.old_tokens = (*journal)->old_tokens;
  auto now = save_now(client, access, model);
  if (!now) return now.error();
  auto holds = what_it_holds(access, **journal, *now, model);
  if (!holds) return holds.error();
  const SlotFileNames names(access.slot);
  if (*holds == Holds::kOurs) {
    Status back = put_back(client, access, names.safety, (*journal)->old_tokens, (*journal)->old_bytes, model,
                           action_time(access, true));
    if (!back) return back.error();
  }
  report.outcome = *holds == Holds::kOld    ? Recovery::kUntouched
                   : *holds == Holds::kOurs ? Recovery::kPutBack
                                            : Recovery::kLeft;
  if (report.outcome == Recovery::kLeft && report.old_tokens > 0) {
    auto kept = keep_safety_copy(access.folder, access.slot);
    if (!kept) return kept.error();
    report.kept = *kept;
  }
  if (Status s = remove_slot_files(access.folder, access.slot); !s) return s.error();
  return report;
}

}  // namespace cachecard::llama_server
