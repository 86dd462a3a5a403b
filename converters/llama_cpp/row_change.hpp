#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "cachecard/reader.hpp"

/// From a card's values to what a target keeps: another type, rotated or not, at other positions.
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

/// Turns keys to other positions through the card's RoPE table: angles in f64, one turn in f32.
class KeyTurn {
 public:
  /// The card's own table. Keys with RoPE turn by shift; keys without it get RoPE at position + shift.
  /// Errors: not_restorable without a table, geometry_mismatch for one that no head has room for, the
  /// reader's
  static Result<KeyTurn> make(const CardReader& card, std::int64_t shift);

  /// Rows [token][channel] in f32, unrotated, of a key or latent stream.
  void apply(const StreamRecord& stream, std::uint64_t first_token, std::span<float> rows) const;
  /// Whether a stream's values change. Needs: a key or latent stream for true.
  bool turns(const StreamRecord& stream) const;

 private:
  struct Angle {
    float cosine;
    float sine;
  };
  void fill(double position, double magnitude, std::vector<Angle>& out) const;
  void turn_head(const std::vector<Angle>& angles, float* head) const;

  RopeTable table_;
  std::int64_t shift_ = 0;
  std::vector<std::int32_t> positions_;  ///< by token, where a stream has keys without RoPE
};

/// What a target wants of a stream's rows.
struct RowForm {
  DType dtype = DType::kF16;
  std::uint32_t hadamard_size = 1;  ///< 1: not rotated
  const KeyTurn* turn = nullptr;    ///< nullptr: positions stay
};

/// Buffers of one worker.
struct RowBuffers {
  std::span<std::byte> out;  ///< where changed rows go, exactly their size; empty: into a buffer
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
};

/// Whether the target's rows are other bytes than the card's.
bool changes_rows(const StreamRecord& stream, const RowForm& form);

/// Reads rows (digests checked) and brings them into the form.
/// Needs: what check_fit holds a form to. Errors: the reader's
Result<ChangedRows> changed_rows(const CardReader& card, std::size_t stream_index, std::uint64_t first_token,
                                 std::uint64_t token_count, const RowForm& form, RowBuffers& buffers);

}  // namespace cachecard::llama_cpp
