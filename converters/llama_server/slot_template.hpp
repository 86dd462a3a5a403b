#pragma once

#include <functional>
#include <string>

#include "llama_cpp/state_writer.hpp"
#include "llama_server/slot_session.hpp"

namespace cachecard::llama_server {

/// The token that an empty slot reads to show its layout.
inline constexpr std::int32_t kProbeToken = 0;

/// How the server wants a slot file, and what showed it.
struct SlotTemplate {
  llama_cpp::StateTemplate layout;
  std::string from;     ///< "--like FILE", "slot 0", "slot 2", "one token in slot 0"
  bool probed = false;  ///< the slot now holds one token
};

struct TemplateQuestion {
  const SavedSlot& old_slot;  ///< saved just now, may be empty
  const SlotView& view;
  std::uint32_t total_slots = 1;
  std::string like;         ///< a slot file of the same server; empty: none
  std::string sample_name;  ///< file name for slots saved on the way
  const llama_cpp::ModelFacts* model = nullptr;
  std::function<Status()> before_probe;  ///< called before the slot is touched
};

/// From --like; else the slot itself; else any other slot that holds something; else, if no other
/// slot can be hurt by it, from the empty slot after it has read one token.
/// Errors: geometry_mismatch (like is another server's), target_busy (no way that hurts nobody)
Result<SlotTemplate> find_template(ServerClient& client, const SlotAccess& access,
                                   const TemplateQuestion& question);

}  // namespace cachecard::llama_server
