#include "pt_file.hpp"

#include <cstring>
#include <map>

#include "pickle_machine.hpp"
#include "pt_error.hpp"
#include "zip_archive.hpp"

namespace cachecard::pytorch {
namespace {

constexpr std::string_view kPickleName = "/data.pkl";

bool is_zip(std::span<const std::byte> head) {
  constexpr char kMagic[] = {'P', 'K', 3, 4};
  return head.size() >= sizeof(kMagic) && std::memcmp(head.data(), kMagic, sizeof(kMagic)) == 0;
}

/// The one entry PREFIX/data.pkl; its prefix is that of every name.
Result<const ZipEntry*> find_pickle(const ZipArchive& archive) {
  const ZipEntry* found = nullptr;
  for (const ZipEntry& entry : archive.entries()) {
    const auto slash = entry.name.find('/');
    if (slash == std::string::npos || entry.name.substr(slash) != kPickleName) continue;
    if (found != nullptr) {
      return pt_error(entry.offset, "zip_entry",
                      "two pickles: '" + shown(found->name) + "' and '" + shown(entry.name) + "'");
    }
    found = &entry;
  }
  if (found == nullptr) return pt_error(0, "zip_entry", "a zip without data.pkl: not a file of torch.save");
  return found;
}

Status check_archive(const ByteSource& source, const ZipArchive& archive, const std::string& prefix) {
  for (const ZipEntry& entry : archive.entries()) {
    const bool code = entry.name == prefix + "/constants.pkl" || entry.name.starts_with(prefix + "/code/");
    if (!code) continue;
    return pt_error(
        entry.offset, "zip_entry",
        "a TorchScript archive ('" + shown(entry.name) +
            "'), which holds code: save the cache with Python's torch.save or torch::pickle_save");
  }
  if (Status s = archive.check_stored(); !s) return s;
  const ZipEntry* order = archive.find(prefix + "/byteorder");
  if (order == nullptr) return {};
  std::string text(std::min<std::uint64_t>(order->size, 16), '\0');
  if (Status s = source.read_at(order->offset, std::as_writable_bytes(std::span(text))); !s) return s;
  if (text == "little") return {};
  return pt_error(order->offset, "byteorder", "found '" + shown(text) + "', allowed 'little'");
}

/// Gives every storage its place: the entry PREFIX/data/KEY, of just its size.
Status place_storages(const ByteSource& source, const ZipArchive& archive, PtFile& file) {
  std::map<std::string, bool> checked;
  for (StorageRef& storage : file.values.storages) {
    const ZipEntry* entry = archive.find(file.prefix + "/data/" + storage.key);
    if (entry == nullptr) {
      return Error{ErrorCode::kCorrupt, kNoOffset, "storage",
                   "the pickle names storage '" + shown(storage.key) + "', which the zip does not hold"};
    }
    const ElementInfo& info = element_info(storage.element);
    if (storage.element_count != entry->size / info.bytes || entry->size % info.bytes != 0) {
      return Error{ErrorCode::kCorrupt, entry->offset, "storage",
                   "storage '" + shown(storage.key) + "' has " + std::to_string(entry->size) +
                       " bytes, the pickle says " + std::to_string(storage.element_count) + " values of " +
                       std::string(info.name)};
    }
    storage.file_offset = entry->offset;
    if (checked.emplace(storage.key, true).second) {
      if (Status s = check_crc(source, *entry); !s) return s;
    }
  }
  return {};
}

Result<PtFile> open_zip_pt(const ByteSource& source) {
  auto archive = ZipArchive::open(source);
  if (!archive) return archive.error();
  auto pickle = find_pickle(*archive);
  if (!pickle) return pickle.error();
  const ZipEntry& entry = **pickle;
  PtFile file;
  file.container = PtContainer::kZip;
  file.prefix = entry.name.substr(0, entry.name.size() - kPickleName.size());
  if (Status s = check_archive(source, *archive, file.prefix); !s) return s.error();
  if (entry.size > kMaxPickleBytes) {
    return Error{
        ErrorCode::kLimitExceeded, entry.offset, "data.pkl",
        "found " + std::to_string(entry.size) + " bytes, allowed " + std::to_string(kMaxPickleBytes)};
  }
  if (Status s = check_crc(source, entry); !s) return s.error();
  std::vector<std::byte> bytes(entry.size);
  if (Status s = source.read_at(entry.offset, bytes); !s) return s.error();
  PickleMachine machine(bytes, entry.offset, file.values);
  auto root = machine.run();
  if (!root) return root.error();
  file.root = *root;
  if (Status s = place_storages(source, *archive, file); !s) return s.error();
  return file;
}

}  // namespace

std::string_view name_of(PtContainer container) noexcept {
  return container == PtContainer::kZip ? "zip" : "legacy";
}

bool looks_like_pt(std::span<const std::byte> head) { return is_zip(head) || looks_like_legacy_pt(head); }

Result<PtFile> open_pt(const ByteSource& source) {
  std::vector<std::byte> head(std::min<std::uint64_t>(source.size(), 64));
  if (Status s = source.read_at(0, head); !s) return s.error();
  if (is_zip(head)) return open_zip_pt(source);
  if (looks_like_legacy_pt(head)) return open_legacy_pt(source);
  if (head.empty()) return Error{ErrorCode::kTruncated, 0, {}, "the input is empty"};
  return pt_error(0, "magic", "neither a zip nor torch's legacy container: not a file of torch.save");
}

}  // namespace cachecard::pytorch
