#pragma once

#include <cstdlib>
#include <memory>
#include <span>

#include "llama_live/live_context.hpp"

/// One sequence's state in memory, and the calls that move it.
namespace cachecard::llama_live {

/// Memory of one state, a sink for write_state. Not zeroed: a state is written wholly before it is read. Kept
/// between states it costs its page faults once.
class StateBlob final : public RandomSink {
 public:
  /// Errors: out_of_memory
  static Result<StateBlob> allocate(std::uint64_t size);
  StateBlob() = default;
  /// Forgets the bytes, keeps the memory.
  void clear() { size_ = position_ = 0; }

  std::span<std::byte> bytes() { return {bytes_.get(), size_}; }
  std::span<const std::byte> bytes() const { return {bytes_.get(), size_}; }

  /// Errors: out_of_memory
  Status reserve(std::uint64_t size) override;
  Status write_at(std::uint64_t offset, std::span<const std::byte> bytes) override;
  Status read_at(std::uint64_t offset, std::span<std::byte> out) const override;
  std::span<std::byte> place(std::uint64_t offset, std::uint64_t size) override;
  Status write(std::span<const std::byte> bytes) override;
  Status commit() override { return {}; }

 private:
  struct Free {
    void operator()(std::byte* bytes) const { std::free(bytes); }
  };
  std::unique_ptr<std::byte[], Free> bytes_;
  std::size_t capacity_ = 0;
  std::size_t size_ = 0;
  std::size_t position_ = 0;
};

/// Positions that a sequence spans; 0 where it is empty.
std::uint64_t positions_held(const llama_context* context, llama_seq_id sequence);

/// Errors: invalid_argument for a number that the context has no sequence for
Status check_sequence(const llama_context* context, llama_seq_id sequence);

/// The whole state of a sequence. Errors: out_of_memory (also above limit_bytes), target_unavailable
Result<StateBlob> read_sequence(llama_context* context, llama_seq_id sequence, std::uint64_t limit_bytes);

/// Whether libllama took the whole state. On false the sequence is empty.
bool set_sequence(llama_context* context, llama_seq_id sequence, std::span<const std::byte> state);

}  // namespace cachecard::llama_live
