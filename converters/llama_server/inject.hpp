#pragma once

#include <functional>
#include <string>
#include <vector>

#include "cachecard/reader.hpp"
#include "llama_cpp/state_file.hpp"
#include "llama_server/slot_session.hpp"
#include "llama_server/step_time.hpp"

/// Putting a card into a slot of a running llama-server: wholly, or not at all.
/// Steps, each in the journal before it is taken: wait for an idle slot; save it (the safety copy, fsynced); learn
/// the server's layout from a saved slot or one probed token; stage the new slot file and parse it back to its last
/// byte; look at the slot once more; restore. On any failure and after a signal the old slot comes back.
/// Why so careful: a slot file that is short by a byte aborts llama-server, a refused one empties the slot.
namespace cachecard::llama_server {

struct InjectOptions {
  SlotAccess access;
  std::uint64_t token_count = 0;  ///< prefix of the card; 0: all
  bool allow_nonfinite = false;
  std::string like;  ///< a slot file of the same server; empty: ask the server
  ParallelFor parallel;
  std::function<bool(std::uint64_t done, std::uint64_t total)> progress;
};

struct InjectReport {
  std::uint64_t token_count = 0;
  std::int64_t next_position = 0;
  std::uint64_t file_size = 0;   ///< of the slot file
  std::uint64_t old_tokens = 0;  ///< what the slot held before
  std::string template_from;
  std::uint64_t nonfinite_values = 0;
  double max_conversion_loss = 0.0;
  std::vector<std::string> notes;  ///< what the user should know, one line each
  std::vector<StepTime> times;
};

/// Puts a card whose identity was matched into a slot. On an error the slot is as it was, which the
/// error says; where that could not be made sure of (the server is gone), the journal stays in the
/// slot directory for recover(), which the error says too.
/// Errors: target_too_small, target_busy, target_unavailable, interrupted, io, invalid_argument,
///         and those of find_template and stage_card
Result<InjectReport> inject(const CardReader& card, ServerClient& client, const ServerFacts& server,
                            const llama_cpp::ModelFacts& model, const InjectOptions& options);

/// The same up to the first thing that would change or be written.
/// Errors: as inject
Result<InjectReport> rehearse(const CardReader& card, ServerClient& client, const InjectOptions& options);

}  // namespace cachecard::llama_server
