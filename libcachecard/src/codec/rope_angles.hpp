#pragma once

#include "base/recent.hpp"
#include "cachecard/card.hpp"

namespace cachecard {

/// {cos, sin} of each RoPE pair at each token of a span: [token][pair][2], magnitude in.
using Angles = std::vector<float>;

/// Which angles: equal keys mean equal angles within one card.
struct AngleSpan {
  std::uint64_t table_id = 0;
  std::uint64_t first_token = 0;
  std::uint64_t token_count = 0;
  std::int64_t shift = 0;  ///< added to the positions
  bool operator==(const AngleSpan&) const = default;
};

/// Angles that several layers share. Keeps the last few spans, so its memory does not grow with the context.
class AngleCache {
 public:
  /// Needs: positions are the span's.   Spec: CODECS.md#angles
  std::shared_ptr<const Angles> get(const AngleSpan& span, const RopeTable& table,
                                    std::span<const std::int32_t> positions);

 private:
  Recent<AngleSpan, Angles> recent_{8};
};

}  // namespace cachecard
