#include "base/scratch.hpp"

#include <new>
#include <string>
#include <utility>

namespace cachecard {
namespace {

constexpr std::size_t kAlignment = 64;

}  // namespace

Result<Scratch> Scratch::allocate(const Allocator& allocator, std::size_t size) {
  void* pointer = allocator.allocate != nullptr
                      ? allocator.allocate(allocator.user, size, kAlignment)
                      : ::operator new (size, std::align_val_t{kAlignment}, std::nothrow);
  if (pointer != nullptr) return Scratch(allocator, pointer, size);
  return Error{ErrorCode::kOutOfMemory, kNoOffset, {}, std::to_string(size) + " bytes of scratch"};
}

Scratch::Scratch(Scratch&& other) noexcept
    : allocator_(other.allocator_), pointer_(std::exchange(other.pointer_, nullptr)), size_(other.size_) {}

Scratch::~Scratch() {
  if (pointer_ == nullptr) return;
  if (allocator_.release != nullptr) {
    allocator_.release(allocator_.user, pointer_, size_);
  } else {
    ::operator delete (pointer_, std::align_val_t{kAlignment});
  }
}

}  // namespace cachecard
