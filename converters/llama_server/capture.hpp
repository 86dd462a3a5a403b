#pragma once

#include <functional>
#include <string>
#include <vector>

#include "cachecard/writer.hpp"
#include "llama_server/slot_session.hpp"
#include "llama_server/step_time.hpp"

/// A slot of a running llama-server as a card.
namespace cachecard::llama_server {

struct CaptureOptions {
  SlotAccess access;
  CardOptions card;             ///< its progress is also asked between the steps
  /// Settles what depends on the cache, once it is known; may be empty.
  std::function<Status(const CacheSource&, CardOptions&, std::vector<std::string>& notes)> plan;
  bool text = false;            ///< store the text of the tokens too
  bool keep_slot_file = false;  ///< leave what the server saved in the slot directory
};

struct CaptureReport {
  std::uint64_t token_count = 0;
  std::int64_t next_position = 0;
  std::uint64_t state_size = 0;  ///< of the slot file
  WriteReport written;
  std::uint64_t nonfinite_values = 0;
  std::string slot_file;           ///< name in the slot directory, where it was kept
  std::vector<std::string> notes;  ///< what the user should know, one line each
  std::vector<StepTime> times;
};

/// Waits for the slot, has it saved, writes it as a card, decodes the card and compares it with
/// what was saved, then commits the sink. The slot is not changed; on an error nothing is left.
/// Errors: invalid_argument (an empty slot), and those of save_slot, state_source, write_card and
///         check_encoded
Result<CaptureReport> capture(ServerClient& client, const llama_cpp::ModelFacts& model, RandomSink& sink,
                              const CaptureOptions& options);

}  // namespace cachecard::llama_server
