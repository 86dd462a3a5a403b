#pragma once

#include "cachecard/profile.hpp"
#include "codec/rope_angles.hpp"
#include "kernel/planes.hpp"

namespace cachecard {

struct HeadSpan {
  std::uint32_t first = 0;
  std::uint32_t count = 0;
};

/// A float stream's rows, or some heads of them, as f32 in card order, with rotary embedding on or off.
class KeyRows {
 public:
  /// Errors: none; can_turn() says whether the source's table fits keys.
  KeyRows(const CacheSource& source, std::size_t stream);
  KeyRows(const CacheSource& source, std::size_t stream, HeadSpan heads);

  /// Whether keys can be had with and without rotary embedding. Values have none.
  bool can_turn() const { return can_turn_; }
  std::size_t width() const { return std::size_t{heads_.count} * stream_.head_dim; }
  /// out[token][channel]; embedded: keys as attention sees them.   Errors: the source's
  Status read(std::uint64_t first, std::uint64_t count, bool embedded, std::span<float> out);
  /// Embeds the heads of a row of any number of heads, at a position.
  void embed(std::int32_t position, std::span<float> row);

 private:
  std::shared_ptr<const Angles> angles(std::span<const std::int32_t> positions) const;

  const CacheSource& source_;
  const StreamRecord& stream_;
  std::size_t index_;
  HeadSpan heads_;
  bool can_turn_ = false;
  std::vector<std::uint32_t> groups_;
  std::vector<float> identity_;  ///< angles of position 0
  std::vector<std::byte> rows_;
};

/// Whether profiles and weights are about such streams.
bool is_weighed(const StreamRecord& stream);

}  // namespace cachecard
