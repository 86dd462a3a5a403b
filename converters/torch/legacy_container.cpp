// The container of torch.save before 1.6: pickles one behind the other, then the storages.
// source: torch/serialization.py, _legacy_save and _legacy_load

#include <cstring>
#include <map>

#include "pickle_machine.hpp"
#include "pt_error.hpp"
#include "pt_file.hpp"

namespace cachecard::pytorch {
namespace {

// PROTO 2, LONG1 of ten bytes: 0x1950a86a20f9469cfc6c, STOP.
constexpr unsigned char kMagic[] = {0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46,
                                    0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, 0x2e};
constexpr std::int64_t kProtocol = 1001;

/// Takes the pickles of a file in order. Holds its first kMaxPickleBytes.
class Pickles {
 public:
  static Result<Pickles> open(const ByteSource& source) {
    Pickles pickles;
    pickles.cut_ = source.size() > kMaxPickleBytes + sizeof(kMagic);
    pickles.bytes_.resize(std::min<std::uint64_t>(source.size(), kMaxPickleBytes + sizeof(kMagic)));
    if (Status s = source.read_at(0, pickles.bytes_); !s) return s.error();
    pickles.offset_ = sizeof(kMagic);
    return pickles;
  }

  Result<PickleId> next(PickleValues& values) {
    PickleMachine machine(std::span<const std::byte>(bytes_).subspan(offset_), offset_, values);
    auto root = machine.run();
    if (!root && root.error().code == ErrorCode::kTruncated && cut_) {
      return Error{ErrorCode::kLimitExceeded, root.error().offset, "pickle",
                   "the pickles take more than " + std::to_string(kMaxPickleBytes) + " bytes"};
    }
    offset_ += machine.consumed();
    return root;
  }

  std::uint64_t offset() const { return offset_; }

 private:
  std::vector<std::byte> bytes_;
  std::uint64_t offset_ = 0;
  bool cut_ = false;
};

Status check_protocol(Pickles& pickles) {
  PickleValues values;
  const std::uint64_t at = pickles.offset();
  auto protocol = pickles.next(values);
  if (!protocol) return protocol.error();
  const PickleNode& node = values.nodes[*protocol];
  if (node.kind != PickleKind::kInt || node.number != kProtocol) {
    return pt_error(at, "protocol", "the legacy container's protocol is not 1001");
  }
  return {};
}

Status check_system(Pickles& pickles) {
  PickleValues values;
  const std::uint64_t at = pickles.offset();
  auto info = pickles.next(values);
  if (!info) return info.error();
  if (values.kind(*info) != PickleKind::kDict) return pt_error(at, "sys_info", "found no dict");
  const auto little = values.find(*info, "little_endian");
  if (little && values.kind(*little) == PickleKind::kBool && values.nodes[*little].number != 1) {
    return pt_error(at, "sys_info", "found little_endian False, allowed True");
  }
  return {};
}

/// One storage: its element count (i64), then its values.
Result<std::uint64_t> place_storage(const ByteSource& source, std::uint64_t at, const StorageRef& storage) {
  std::uint64_t count = 0;
  if (Status s = source.read_at(at, std::as_writable_bytes(std::span(&count, 1))); !s) return s.error();
  const ElementInfo& info = element_info(storage.element);
  if (count != storage.element_count) {
    return Error{ErrorCode::kCorrupt, at, "storage",
                 "storage '" + shown(storage.key) + "': found " + std::to_string(count) +
                     " values, the pickle says " + std::to_string(storage.element_count)};
  }
  at += sizeof(count);
  if (count > (source.size() - at) / info.bytes) {
    return Error{ErrorCode::kTruncated, at, "storage",
                 "storage '" + shown(storage.key) + "' has " + std::to_string(count) + " values of " +
                     std::string(info.name) + ", " + std::to_string(source.size() - at) + " bytes are left"};
  }
  return at;
}

/// All storages, in the order of the last pickle's list of keys.
Status place_storages(const ByteSource& source, Pickles& pickles, PtFile& file) {
  PickleValues values;
  const std::uint64_t list_at = pickles.offset();
  auto keys = pickles.next(values);
  if (!keys) return keys.error();
  if (values.kind(*keys) != PickleKind::kList) return pt_error(list_at, "storage_keys", "found no list");
  std::map<std::string, std::vector<StorageRef*>> by_key;
  for (StorageRef& storage : file.values.storages) by_key[storage.key].push_back(&storage);
  std::uint64_t at = pickles.offset();
  for (const PickleId key : values.members(*keys)) {
    const auto found = values.kind(key) == PickleKind::kText ? by_key.find(values.text(key)) : by_key.end();
    if (found == by_key.end()) {
      return Error{ErrorCode::kCorrupt, list_at, "storage_keys",
                   "a key that no tensor has, or that was there before"};
    }
    for (StorageRef* storage : found->second) {
      if (storage->element != found->second.front()->element) {
        return Error{ErrorCode::kCorrupt, list_at, "storage",
                     "storage '" + shown(storage->key) + "' has two types"};
      }
      auto place = place_storage(source, at, *storage);
      if (!place) return place.error();
      storage->file_offset = *place;
    }
    const StorageRef& first = *found->second.front();
    at = first.file_offset + first.element_count * element_info(first.element).bytes;
    by_key.erase(found);
  }
  if (!by_key.empty()) {
    return Error{ErrorCode::kCorrupt, list_at, "storage_keys",
                 "storage '" + shown(by_key.begin()->first) + "' is missing"};
  }
  if (at == source.size()) return {};
  return Error{ErrorCode::kCorrupt, at, "storage",
               std::to_string(source.size() - at) + " bytes follow the last storage"};
}

}  // namespace

bool looks_like_legacy_pt(std::span<const std::byte> head) {
  return head.size() >= sizeof(kMagic) && std::memcmp(head.data(), kMagic, sizeof(kMagic)) == 0;
}

Result<PtFile> open_legacy_pt(const ByteSource& source) {
  auto pickles = Pickles::open(source);
  if (!pickles) return pickles.error();
  if (Status s = check_protocol(*pickles); !s) return s.error();
  if (Status s = check_system(*pickles); !s) return s.error();
  PtFile file;
  file.container = PtContainer::kLegacy;
  auto root = pickles->next(file.values);
  if (!root) return root.error();
  file.root = *root;
  if (Status s = place_storages(source, *pickles, file); !s) return s.error();
  return file;
}

}  // namespace cachecard::pytorch
