#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cachecard/io.hpp"
#include "llama_cpp/state_file.hpp"
#include "llama_server/server_client.hpp"

/// One slot of a running server: wait for it, save it, and hold what was saved to what was said.
namespace cachecard::llama_server {

/// Which slot, and how to reach its files.
struct SlotAccess {
  std::uint32_t slot = 0;
  std::string folder;  ///< the server's --slot-save-path as this process sees it
  std::chrono::milliseconds wait{10000};
  std::function<bool()> interrupted;  ///< empty: never

  std::string path(const std::string& file_name) const { return folder + "/" + file_name; }
  bool stop() const { return interrupted && interrupted(); }
};

/// GET /slots as far as it is shown.
struct SlotView {
  bool shown = false;  ///< false: the server hides its slots
  SlotInfo slot;       ///< the one asked for
  std::vector<SlotInfo> all;
};

/// Errors: invalid_argument (no such slot), and the client's
Result<SlotView> look_at_slots(ServerClient& client, const SlotAccess& access);

/// Polls until the slot is idle. Errors: target_busy after access.wait, interrupted, as above
Result<SlotView> wait_until_idle(ServerClient& client, const SlotAccess& access);

/// How long to wait for the answer to save, restore or erase: an idle slot needs the time of its
/// bytes; where slots are hidden it may be at work, and access.wait bounds that.
std::chrono::milliseconds action_time(const SlotAccess& access, bool shown_idle);

/// A slot file that the server wrote and that was read to its last byte.
struct SavedSlot {
  std::uint64_t token_count = 0;
  std::uint64_t file_size = 0;
  std::unique_ptr<ByteSource> file;
  llama_cpp::StateFile state;
};

/// Saves any slot of the server under file_name in the folder and reads it back.
/// model may be null (see parse_state).
/// Errors: invalid_argument (the file is not in the folder: it is not the server's),
///         io (shorter than the server says), and parse_state's
Result<SavedSlot> save_slot(ServerClient& client, const SlotAccess& access, std::uint32_t slot,
                            const std::string& file_name, const llama_cpp::ModelFacts* model,
                            std::chrono::milliseconds timeout);

/// Opens and parses a slot file; it must end where the state ends.
/// Errors: io, and parse_state's
Result<SavedSlot> read_slot_file(const std::string& path, const llama_cpp::ModelFacts* model);

/// Puts back what a slot held: the safety copy, or nothing where old_tokens is 0. The copy is read
/// to its last byte first: a short one would end the server.
/// Errors: io, corrupt (the copy is not what was saved), and the client's
Status put_back(ServerClient& client, const SlotAccess& access, const std::string& safety_name,
                std::uint64_t old_tokens, std::uint64_t old_bytes, const llama_cpp::ModelFacts* model,
                std::chrono::milliseconds timeout);

}  // namespace cachecard::llama_server
