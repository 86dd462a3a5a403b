#pragma once

#include <span>

#include "cachecard/error.hpp"
#include "cachecard/io.hpp"

namespace cachecard {

/// Memory for the length of a task: from the caller's allocator, or from ours where it gave none.
class Scratch {
 public:
  /// Errors: out_of_memory
  static Result<Scratch> allocate(const Allocator& allocator, std::size_t size);
  Scratch(Scratch&& other) noexcept;
  Scratch& operator=(Scratch&&) = delete;
  ~Scratch();
  std::span<std::byte> bytes() const { return {static_cast<std::byte*>(pointer_), size_}; }

 private:
  Scratch(const Allocator& allocator, void* pointer, std::size_t size)
      : allocator_(allocator), pointer_(pointer), size_(size) {}

  Allocator allocator_;
  void* pointer_;
  std::size_t size_;
};

}  // namespace cachecard
