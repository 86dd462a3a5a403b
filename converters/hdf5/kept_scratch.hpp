#pragma once

#include <cstdlib>
#include <map>
#include <mutex>

#include "cachecard/io.hpp"

namespace cachecard::hdf5 {

/// Scratch for the library's tasks that is used again instead of freed: blocks of megabytes that come and go leave holes in
/// the heap, which the HDF5 library's small ones break up, so that it grows with the card.
class KeptScratch {
 public:
  KeptScratch() = default;
  KeptScratch(const KeptScratch&) = delete;
  KeptScratch& operator=(const KeptScratch&) = delete;
  ~KeptScratch() {
    for (const auto& [size, block] : free_) std::free(block);
  }

  /// Valid as long as this object; all blocks must be back by then.
  Allocator allocator() { return {allocate, release, this}; }

 private:
  static constexpr std::size_t kPage = 4096;
  static std::size_t rounded(std::size_t size) { return (size + kPage - 1) / kPage * kPage; }

  static void* allocate(void* user, std::size_t size, std::size_t alignment) {
    auto& self = *static_cast<KeptScratch*>(user);
    const std::lock_guard lock(self.mutex_);
    const auto found = self.free_.lower_bound(size);
    if (found == self.free_.end()) return alignment > kPage ? nullptr : std::aligned_alloc(kPage, rounded(size));
    void* block = found->second;
    self.sizes_[block] = found->first;
    self.free_.erase(found);
    return block;
  }
  static void release(void* user, void* block, std::size_t size) {
    auto& self = *static_cast<KeptScratch*>(user);
    const std::lock_guard lock(self.mutex_);
    const auto known = self.sizes_.find(block);
    self.free_.emplace(known == self.sizes_.end() ? rounded(size) : known->second, block);
    if (known != self.sizes_.end()) self.sizes_.erase(known);
  }

  std::mutex mutex_;
  std::multimap<std::size_t, void*> free_;  ///< by size
  std::map<void*, std::size_t> sizes_;      ///< of blocks in use that are larger than was asked for
};

}  // namespace cachecard::hdf5
