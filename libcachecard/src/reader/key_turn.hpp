#pragma once

#include <optional>
#include <span>
#include <vector>

#include "cachecard/reader.hpp"

namespace cachecard {

/// Turns keys to other positions through the card's RoPE table: angles in f64, one turn in f32.
class KeyTurn {
 public:
  /// nullopt where a shift changes nothing of the stream.
  /// Errors: not_restorable without a table, geometry_mismatch for one that no head has room for,
  /// invalid_argument for
  ///         positions out of range, the reader's
  static Result<std::optional<KeyTurn>> make(const CardReader& card, const StreamRecord& stream,
                                             std::int64_t shift);

  /// One row of the stream in f32, unrotated: turned by the shift where it has RoPE, else given RoPE at its
  /// place.
  void apply(std::uint64_t token, std::span<float> row, std::span<float> angles) const;
  /// Floats of scratch that apply needs.
  std::size_t angle_count() const { return 2 * table_.inverse_frequencies.size(); }
  std::int64_t shift() const { return shift_; }

 private:
  KeyTurn() = default;
  void turn_head(std::span<const float> angles, float* head) const;

  RopeTable table_;
  StreamRecord stream_;
  std::int64_t shift_ = 0;
  std::vector<std::int32_t> positions_;  ///< by token
  std::vector<float> constant_;          ///< angles of the shift alone, for keys that have RoPE
};

}  // namespace cachecard
