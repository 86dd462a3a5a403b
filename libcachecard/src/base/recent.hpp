#pragma once

#include <list>
#include <memory>
#include <mutex>

namespace cachecard {

/// The last few values that were made, by key. Thread-safe; two threads may make one value at once, which costs time only.
template <class Key, class Value>
class Recent {
 public:
  explicit Recent(std::size_t capacity) : capacity_(capacity) {}

  /// The value of a key; make() returns a Result of a shared_ptr to it.
  template <class Make>
  auto get(const Key& key, Make&& make) -> decltype(make()) {
    if (Pointer found = find(key)) return found;
    auto made = make();
    if (made) keep(key, *made);
    return made;
  }

 private:
  using Pointer = std::shared_ptr<const Value>;

  Pointer find(const Key& key) {
    const std::scoped_lock lock(mutex_);
    for (auto entry = entries_.begin(); entry != entries_.end(); ++entry) {
      if (!(entry->first == key)) continue;
      entries_.splice(entries_.begin(), entries_, entry);
      return entry->second;
    }
    return nullptr;
  }

  void keep(const Key& key, const Pointer& value) {
    const std::scoped_lock lock(mutex_);
    entries_.emplace_front(key, value);
    if (entries_.size() > capacity_) entries_.pop_back();
  }

  std::size_t capacity_;
  std::mutex mutex_;
  std::list<std::pair<Key, Pointer>> entries_;  ///< latest first
};

}  // namespace cachecard
