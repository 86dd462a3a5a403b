#include "llama_server/slot_session.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <thread>

namespace cachecard::llama_server {
namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

constexpr milliseconds kFirstPause{1};
constexpr milliseconds kLongestPause{50};
/// Least times for save, restore and erase of a slot that is idle, and of one that may not be.
constexpr milliseconds kIdleActionTime{60000};
constexpr milliseconds kHiddenActionTime{2000};

std::string slot_name(std::uint32_t slot) { return "slot " + std::to_string(slot); }

bool file_exists(const std::string& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0;
}

}  // namespace

milliseconds action_time(const SlotAccess& access, bool shown_idle) {
  return std::max(shown_idle ? kIdleActionTime : kHiddenActionTime, access.wait);
}

Result<SlotView> look_at_slots(ServerClient& client, const SlotAccess& access) {
  auto slots = client.slots();
  if (!slots) return slots.error();
  SlotView view;
  view.slot.id = access.slot;
  if (!*slots) return view;
  view.shown = true;
  view.all = std::move(**slots);
  for (const SlotInfo& info : view.all) {
    if (info.id != access.slot) continue;
    view.slot = info;
    return view;
  }
  return Error{ErrorCode::kInvalidArgument, kNoOffset, "slot",
               std::to_string(access.slot) + " is not one of the server's " +
                   std::to_string(view.all.size()) + " slots"};
}

Result<SlotView> wait_until_idle(ServerClient& client, const SlotAccess& access) {
  const auto deadline = Clock::now() + access.wait;
  milliseconds pause = kFirstPause;
  for (;;) {
    if (access.stop()) return Error{ErrorCode::kInterrupted, kNoOffset, {}, ""};
    auto view = look_at_slots(client, access);
    if (!view || !view->slot.busy) return view;
    if (Clock::now() + pause > deadline) {
      return Error{ErrorCode::kTargetBusy,
                   kNoOffset,
                   {},
                   slot_name(access.slot) + " was still at work after " +
                       std::to_string(std::chrono::duration<double>(access.wait).count()).substr(0, 4) +
                       " s (--wait allows more)"};
    }
    std::this_thread::sleep_for(pause);
    pause = std::min(pause * 2, kLongestPause);
  }
}

Result<SavedSlot> read_slot_file(const std::string& path, const llama_cpp::ModelFacts* model) {
  auto file = open_file(path);
  if (!file) return file.error();
  auto state = llama_cpp::parse_state(**file, model);
  if (!state) return state.error();
  SavedSlot saved;
  saved.token_count = state->token_ids.size();
  saved.file_size = (*file)->size();
  saved.file = std::move(*file);
  saved.state = std::move(*state);
  return saved;
}

Result<SavedSlot> save_slot(ServerClient& client, const SlotAccess& access, std::uint32_t slot,
                            const std::string& file_name, const llama_cpp::ModelFacts* model,
                            milliseconds timeout) {
  const std::string path = access.path(file_name);
  ::unlink(path.c_str());  // what is found afterwards is what the server wrote now
  auto reply = client.save(slot, file_name, timeout);
  if (!reply) return reply.error();
  if (!file_exists(path)) {
    return Error{ErrorCode::kInvalidArgument, kNoOffset, "slot-dir",
                 access.folder + " is not the server's --slot-save-path: the server saved " +
                     slot_name(slot) + " as " + file_name + ", and it is not there"};
  }
  auto saved = read_slot_file(path, model);
  if (!saved) return saved.error();
  if (saved->file_size != reply->bytes || saved->token_count != reply->tokens) {
    return Error{ErrorCode::kIo,
                 kNoOffset,
                 {},
                 "the saved slot has " + std::to_string(saved->file_size) + " bytes and " +
                     std::to_string(saved->token_count) + " tokens, but the server says " +
                     std::to_string(reply->bytes) + " and " + std::to_string(reply->tokens)};
  }
  return saved;
}

Status put_back(ServerClient& client, const SlotAccess& access, const std::string& safety_name,
                std::uint64_t old_tokens, std::uint64_t old_bytes, const llama_cpp::ModelFacts* model,
                milliseconds timeout) {
  if (old_tokens == 0) return client.erase(access.slot, timeout);
  auto safety = read_slot_file(access.path(safety_name), model);
  if (!safety) return safety.error();
  if (safety->file_size != old_bytes || safety->token_count != old_tokens) {
    return Error{ErrorCode::kCorrupt, kNoOffset, safety_name,
                 "the safety copy has " + std::to_string(safety->file_size) + " bytes and " +
                     std::to_string(safety->token_count) + " tokens, but " + std::to_string(old_bytes) +
                     " and " + std::to_string(old_tokens) + " were saved"};
  }
  auto reply = client.restore(access.slot, safety_name, timeout);
  if (!reply) return reply.error();
  if (reply->tokens == old_tokens) return {};
  return Error{ErrorCode::kTargetUnavailable,
               kNoOffset,
               {},
               "the server put back " + std::to_string(reply->tokens) + " of " + std::to_string(old_tokens) +
                   " tokens"};
}

}  // namespace cachecard::llama_server
