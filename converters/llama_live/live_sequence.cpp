#include "llama_live/live_sequence.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

namespace cachecard::llama_live {
namespace {

constexpr std::size_t kHugePage = 2u << 20;

Error no_memory(std::uint64_t size) {
  return {
      ErrorCode::kOutOfMemory, kNoOffset, {}, "no memory for a state of " + std::to_string(size) + " bytes"};
}

}  // namespace

Result<StateBlob> StateBlob::allocate(std::uint64_t size) {
  StateBlob blob;
  if (Status s = blob.reserve(size); !s) return s.error();
  return blob;
}

Status StateBlob::reserve(std::uint64_t size) {
  if (size <= capacity_) {
    size_ = std::max<std::size_t>(size_, size);
    return {};
  }
  const std::uint64_t whole = (size + kHugePage - 1) / kHugePage * kHugePage;
  auto* bytes = static_cast<std::byte*>(whole < size ? nullptr : std::aligned_alloc(kHugePage, whole));
  if (bytes == nullptr) return no_memory(size);
  (void)::madvise(bytes, whole, MADV_HUGEPAGE);  // a hint: a tenth of the page faults
  if (size_ > 0) std::memcpy(bytes, bytes_.get(), size_);
  bytes_.reset(bytes);
  capacity_ = whole;
  size_ = size;
  return {};
}

Status StateBlob::write_at(std::uint64_t offset, std::span<const std::byte> bytes) {
  if (bytes.size() > size_ || offset > size_ - bytes.size()) {
    return Error{ErrorCode::kInternal, offset, {}, "a write behind the state's end"};
  }
  if (!bytes.empty()) std::memcpy(bytes_.get() + offset, bytes.data(), bytes.size());
  return {};
}

std::span<std::byte> StateBlob::place(std::uint64_t offset, std::uint64_t size) {
  if (size > size_ || offset > size_ - size) return {};
  return bytes().subspan(offset, size);
}

Status StateBlob::read_at(std::uint64_t offset, std::span<std::byte> out) const {
  return MemorySource(bytes()).read_at(offset, out);
}

Status StateBlob::write(std::span<const std::byte> bytes) {
  if (Status s = reserve(position_ + bytes.size()); !s) return s;
  const std::size_t at = position_;
  position_ += bytes.size();
  return write_at(at, bytes);
}

std::uint64_t positions_held(const llama_context* context, llama_seq_id sequence) {
  const llama_memory_t memory = llama_get_memory(context);
  const llama_pos last = llama_memory_seq_pos_max(memory, sequence);
  if (last < 0) return 0;
  return static_cast<std::uint64_t>(last - llama_memory_seq_pos_min(memory, sequence)) + 1;
}

Status check_sequence(const llama_context* context, llama_seq_id sequence) {
  const std::uint32_t count = llama_n_seq_max(context);
  if (llama_get_memory(context) == nullptr) {
    return Error{ErrorCode::kGeometryMismatch, kNoOffset, {}, "the model keeps no cache"};
  }
  if (sequence >= 0 && static_cast<std::uint32_t>(sequence) < count) return {};
  return Error{ErrorCode::kInvalidArgument, kNoOffset, "sequence",
               std::to_string(sequence) + ", the context has " + std::to_string(count)};
}

Result<StateBlob> read_sequence(llama_context* context, llama_seq_id sequence, std::uint64_t limit_bytes) {
  llama_synchronize(context);
  const std::size_t size = llama_state_seq_get_size(context, sequence);
  if (size > limit_bytes) {
    return Error{ErrorCode::kOutOfMemory,
                 kNoOffset,
                 {},
                 "the sequence's state takes " + std::to_string(size) + " bytes, allowed are " +
                     std::to_string(limit_bytes)};
  }
  auto blob = StateBlob::allocate(size);
  if (!blob) return blob;
  auto* out = reinterpret_cast<std::uint8_t*>(blob->bytes().data());
  if (size > 0 && llama_state_seq_get_data(context, out, size, sequence) == size) return blob;
  return Error{ErrorCode::kTargetUnavailable, kNoOffset, {}, "libllama did not give the sequence's state"};
}

bool set_sequence(llama_context* context, llama_seq_id sequence, std::span<const std::byte> state) {
  llama_synchronize(context);
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(state.data());
  if (llama_state_seq_set_data(context, bytes, state.size(), sequence) == state.size()) return true;
  // Of a sliding-window pair the first half may have been taken.
  (void)llama_memory_seq_rm(llama_get_memory(context), sequence, -1, -1);
  return false;
}

}  // namespace cachecard::llama_live
