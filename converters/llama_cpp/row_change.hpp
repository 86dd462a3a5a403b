#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "cachecard/reader.hpp"

/// From a card's values to what a target keeps: another type, rotated or not, at other
/// positions, RoPE pairs in another order.
namespace cachecard::llama_cpp {

/// Grows without being filled: pages that a chunk does not need cost nothing.
class Buffer {
 public:
  std::span<std::byte> get(std::size_t size) {
    if (size > capacity_) {
      bytes_.reset(new std::byte[size]);
      capacity_ = size;
    }
    return {bytes_.get(), size};
  }

 private:
  std::unique_ptr<std::byte[]> bytes_;
  std::size_t capacity_ = 0;
};

/// What a target wants of a stream's rows.
struct RowForm {
  DType dtype = DType::kF16;
  std::uint32_t hadamard_size = 1;           ///< 1: not rotated
  std::optional<std::int64_t> rope_shift{};  ///< as DecodeRequest; absent: keys stay as the card holds them
  RopePairing rope_pairing = RopePairing::kNone;  ///< as DecodeRequest
};

/// Buffers of one worker.
struct RowBuffers {
  std::span<std::byte> out;  ///< where changed rows go, exactly their size; empty: into a buffer
  bool counts = false;       ///< nonfinite_rows is wanted
  Buffer rows;
  Buffer scratch;
  Buffer values;
  Buffer converted;
};

struct ChangedRows {
  std::span<const std::byte> bytes;  ///< in the form's type; valid until the buffers are used again
  double loss = 0.0;                 ///< largest |x - stored|, in the rotated values where they rotate
  std::uint64_t nonfinite_values =
      0;  ///< of the card's, which no block type can hold; counted only for those
  std::optional<std::uint64_t> nonfinite_rows;  ///< values of bytes that are NaN or infinite, where asked for and at hand
};

/// Whether the target's rows are other bytes than the card's.
bool changes_rows(const StreamRecord& stream, const RowForm& form);

/// Reads rows (digests checked) and brings them into the form.
/// Needs: what check_fit holds a form to. Errors: the reader's
Result<ChangedRows> changed_rows(const CardReader& card, std::size_t stream_index, std::uint64_t first_token,
                                 std::uint64_t token_count, const RowForm& form, RowBuffers& buffers);

}  // namespace cachecard::llama_cpp
