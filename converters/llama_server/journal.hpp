#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cachecard/error.hpp"

/// What an injection has begun, on disk, so that a killed one can be undone. One per slot, in the
/// slot directory, replaced atomically and fsynced at every step.
namespace cachecard::llama_server {

/// How far an injection is. Until probing the slot is untouched.
enum class InjectStep : std::uint8_t {
  kSaving,       ///< the server may be writing the safety copy
  kSaved,        ///< the safety copy is whole
  kProbing,      ///< the empty slot may hold the probe token
  kRestoring,    ///< the slot is the old one, empty, the probe token, or wholly the new one
  kPuttingBack,  ///< the same
};

struct Journal {
  std::string server;    ///< its URL
  std::string instance;  ///< ServerFacts::instance
  std::uint32_t slot = 0;
  std::int64_t process = 0;  ///< of the injector
  InjectStep step = InjectStep::kSaving;
  std::uint64_t old_tokens = 0;  ///< that the slot held, from kSaved on; 0: it was empty
  std::uint64_t old_bytes = 0;   ///< size of the safety copy
  std::uint64_t new_tokens = 0;  ///< of the card
  std::uint64_t new_digest = 0;  ///< digest64 of the card's token ids as they go into the slot

  bool operator==(const Journal&) const = default;
};

std::string_view name_of(InjectStep step) noexcept;

/// The names that an injection uses in the slot directory, the same at each one of a slot.
struct SlotFileNames {
  explicit SlotFileNames(std::uint32_t slot);
  std::string journal;  ///< .cachecard-journal-<slot>.json
  std::string lock;
  std::string safety;  ///< what the slot held
  std::string sample;  ///< a saved slot that shows the server's layout
  std::string staged;  ///< what will be restored
};

std::string encode_journal(const Journal& journal);
/// Errors: corrupt (naming the field)
Result<Journal> parse_journal(std::string_view text);

/// Replaces the journal of journal.slot in the folder. Errors: io
Status write_journal(const std::string& folder, const Journal& journal);
/// nullopt where the slot has none. Errors: io, corrupt
Result<std::optional<Journal>> read_journal(const std::string& folder, std::uint32_t slot);
/// Removes the journal, then every file of an injection into the slot, temporary ones included.
/// Errors: io
Status remove_slot_files(const std::string& folder, std::uint32_t slot);
/// Gives the safety copy a name that no injection uses, and returns that. Errors: io
Result<std::string> keep_safety_copy(const std::string& folder, std::uint32_t slot);

/// fsync of a file that another process wrote. Errors: io
Status sync_file(const std::string& path);

/// Only one injector works on a slot of a folder. Held until destroyed; its file goes with it.
class SlotLock {
 public:
  /// Errors: target_busy (another one holds it), io (folder missing or read-only)
  static Result<SlotLock> take(const std::string& folder, std::uint32_t slot);
  SlotLock(SlotLock&& other) noexcept;
  SlotLock& operator=(SlotLock&&) = delete;
  ~SlotLock();

 private:
  SlotLock(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}
  int fd_;
  std::string path_;
};

}  // namespace cachecard::llama_server
