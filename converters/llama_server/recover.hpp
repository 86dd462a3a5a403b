#pragma once

#include <string>

#include "llama_server/slot_session.hpp"

namespace cachecard::llama_server {

/// What --recover found and did.
enum class Recovery : std::uint8_t {
  kNothing,    ///< the slot has no journal
  kUntouched,  ///< the slot is what it was: only the journal and its files went
  kPutBack,    ///< the slot holds again what it held before the injection
  kLeft,       ///< the slot was used since: left alone, the safety copy stays if there is one
};
std::string_view name_of(Recovery recovery) noexcept;

struct RecoverReport {
  Recovery outcome = Recovery::kNothing;
  std::string step;              ///< where the injection ended
  std::uint64_t old_tokens = 0;  ///< that the slot held before it
  std::string kept;              ///< file name of a safety copy that stays
};

/// Undoes an injection that was killed, by its journal and by nothing else. What the slot holds now
/// is saved and compared, so that nobody's later work is overwritten. The server may have been
/// started anew since. model may be null where the cache is a plain one.
/// Errors: target_busy (an injector is at work), and those of wait_until_idle, save_slot, put_back
Result<RecoverReport> recover(ServerClient& client, const SlotAccess& access,
                              const llama_cpp::ModelFacts* model);

}  // namespace cachecard::llama_server
