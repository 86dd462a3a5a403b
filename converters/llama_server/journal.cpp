#include "llama_server/journal.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "cachecard/io.hpp"
#include "llama_server/server_json.hpp"

namespace cachecard::llama_server {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr std::uint64_t kJournalFormat = 1;
constexpr std::uint64_t kMaxJournalBytes = 64 << 10;

struct StepName {
  InjectStep step;
  std::string_view name;
};
constexpr std::array kStepNames{
    StepName{InjectStep::kSaving, "saving"}, StepName{InjectStep::kSaved, "saved"},
    StepName{InjectStep::kProbing, "probing"}, StepName{InjectStep::kRestoring, "restoring"},
    StepName{InjectStep::kPuttingBack, "putting_back"}};

Error io_error(const std::string& what) {
  return {ErrorCode::kIo, kNoOffset, {}, what + ": " + std::strerror(errno)};
}

Error bad_field(const char* field) {
  return {ErrorCode::kCorrupt, kNoOffset, std::string("journal.") + field,
          "missing, or not what an injector writes"};
}

std::string hex_of(std::uint64_t number) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text(16, '0');
  for (std::size_t i = 0; i < 16; ++i) text[15 - i] = kDigits[(number >> (4 * i)) & 15];
  return text;
}

std::optional<std::uint64_t> number_from_hex(std::string_view text) {
  if (text.size() != 16) return std::nullopt;
  std::uint64_t number = 0;
  for (const char c : text) {
    const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
    if (digit < 0) return std::nullopt;
    number = number << 4 | static_cast<std::uint64_t>(digit);
  }
  return number;
}

std::optional<InjectStep> step_from_name(std::string_view name) {
  for (const StepName& entry : kStepNames) {
    if (entry.name == name) return entry.step;
  }
  return std::nullopt;
}

bool remove_file(const std::string& path) { return ::unlink(path.c_str()) == 0 || errno == ENOENT; }

/// Removes `name` and the temporary files that create_file makes beside it.
bool remove_with_temporaries(const std::string& folder, const std::string& name) {
  bool removed = remove_file(folder + "/" + name);
  DIR* listing = ::opendir(folder.c_str());
  if (listing == nullptr) return false;
  while (const dirent* entry = ::readdir(listing)) {
    const std::string_view found = entry->d_name;
    if (found.starts_with(name + ".") && found.ends_with(".tmp")) {
      removed = remove_file(folder + "/" + std::string(found)) && removed;
    }
  }
  ::closedir(listing);
  return removed;
}

}  // namespace

std::string_view name_of(InjectStep step) noexcept {
  for (const StepName& entry : kStepNames) {
    if (entry.step == step) return entry.name;
  }
  return "unknown";
}

SlotFileNames::SlotFileNames(std::uint32_t slot) {
  const std::string number = std::to_string(slot);
  journal = ".cachecard-journal-" + number + ".json";
  lock = ".cachecard-lock-" + number;
  safety = ".cachecard-old-" + number + ".bin";
  sample = ".cachecard-sample-" + number + ".bin";
  staged = ".cachecard-new-" + number + ".bin";
}

std::string encode_journal(const Journal& journal) {
  const ordered_json object{
      {"cachecard_journal", kJournalFormat}, {"server", journal.server},
      {"instance", journal.instance},        {"slot", journal.slot},
      {"process", journal.process},          {"step", std::string(name_of(journal.step))},
      {"old_tokens", journal.old_tokens},    {"old_bytes", journal.old_bytes},
      {"new_tokens", journal.new_tokens},    {"new_digest", hex_of(journal.new_digest)}};
  return object.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

Result<Journal> parse_journal(std::string_view text) {
  const json object = json::parse(text, nullptr, false);
  if (!object.is_object()) return bad_field("cachecard_journal");
  if (count_of(object, "cachecard_journal") != kJournalFormat) return bad_field("cachecard_journal");
  for (const char* key : {"slot", "process", "old_tokens", "old_bytes", "new_tokens"}) {
    const auto number = integer_of(object, key);
    if (!number || *number < 0) return bad_field(key);
  }
  const auto step = step_from_name(text_of(object, "step"));
  if (!step) return bad_field("step");
  const auto digest = number_from_hex(text_of(object, "new_digest"));
  if (!digest) return bad_field("new_digest");
  if (count_of(object, "slot") > UINT32_MAX) return bad_field("slot");
  Journal journal;
  journal.server = text_of(object, "server");
  journal.instance = text_of(object, "instance");
  journal.slot = static_cast<std::uint32_t>(count_of(object, "slot"));
  journal.process = static_cast<std::int64_t>(count_of(object, "process"));
  journal.step = *step;
  journal.old_tokens = count_of(object, "old_tokens");
  journal.old_bytes = count_of(object, "old_bytes");
  journal.new_tokens = count_of(object, "new_tokens");
  journal.new_digest = *digest;
  return journal;
}

Status write_journal(const std::string& folder, const Journal& journal) {
  auto file = create_file(folder + "/" + SlotFileNames(journal.slot).journal);
  if (!file) return file.error();
  const std::string text = encode_journal(journal);
  if (Status s = (*file)->write(std::as_bytes(std::span(text))); !s) return s;
  return (*file)->commit();
}

Result<std::optional<Journal>> read_journal(const std::string& folder, std::uint32_t slot) {
  const std::string path = folder + "/" + SlotFileNames(slot).journal;
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) {
    if (errno == ENOENT) return std::optional<Journal>{};
    return io_error("cannot look for a journal");
  }
  auto file = open_file(path);
  if (!file) return file.error();
  if ((*file)->size() > kMaxJournalBytes) return bad_field("cachecard_journal");
  std::string text(static_cast<std::size_t>((*file)->size()), '\0');
  if (Status s = (*file)->read_at(0, std::as_writable_bytes(std::span(text))); !s) return s.error();
  auto journal = parse_journal(text);
  if (!journal) return journal.error();
  if (journal->slot != slot) return bad_field("slot");
  return std::optional(std::move(*journal));
}

Status remove_slot_files(const std::string& folder, std::uint32_t slot) {
  const SlotFileNames names(slot);
  bool removed = remove_with_temporaries(folder, names.journal);
  removed = remove_with_temporaries(folder, names.staged) && removed;
  removed = remove_file(folder + "/" + names.sample) && removed;
  removed = remove_file(folder + "/" + names.safety) && removed;
  if (!removed) return io_error("cannot remove the injection's files in " + folder);
  return {};
}

Result<std::string> keep_safety_copy(const std::string& folder, std::uint32_t slot) {
  const std::string safety = folder + "/" + SlotFileNames(slot).safety;
  for (unsigned attempt = 0; attempt < 1000; ++attempt) {
    const std::string name =
        "cachecard-kept-" + std::to_string(slot) + "-" + std::to_string(attempt) + ".bin";
    if (::link(safety.c_str(), (folder + "/" + name).c_str()) == 0) return name;
    if (errno != EEXIST) break;
  }
  return io_error("cannot keep the safety copy " + safety);
}

Status sync_file(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return io_error("cannot open " + path);
  const int failed = ::fsync(fd) == 0 ? 0 : errno;
  ::close(fd);
  if (failed == 0) return {};
  errno = failed;
  return io_error("fsync of " + path + " failed");
}

Result<SlotLock> SlotLock::take(const std::string& folder, std::uint32_t slot) {
  const std::string path = folder + "/" + SlotFileNames(slot).lock;
  for (;;) {
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0) return io_error("cannot write in the slot directory " + folder);
    if (::flock(fd, LOCK_EX | LOCK_NB) != 0) {
      ::close(fd);
      return Error{ErrorCode::kTargetBusy,
                   kNoOffset,
                   {},
                   "another injection into slot " + std::to_string(slot) + " is at work"};
    }
    // The holder before may have removed the file between our open and our lock.
    struct stat locked {
    }, present{};
    if (::fstat(fd, &locked) == 0 && ::stat(path.c_str(), &present) == 0 && locked.st_ino == present.st_ino &&
        locked.st_dev == present.st_dev) {
      return SlotLock(fd, path);
    }
    ::close(fd);
  }
}

SlotLock::SlotLock(SlotLock&& other) noexcept : fd_(other.fd_), path_(std::move(other.path_)) {
  other.fd_ = -1;
}

SlotLock::~SlotLock() {
  if (fd_ < 0) return;
  ::unlink(path_.c_str());
  ::close(fd_);
}

}  // namespace cachecard::llama_server
