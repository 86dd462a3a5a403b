#include "codec/entropy_overflow.hpp"

#include <algorithm>

#include "codec/magnitudes.hpp"
#include "kernel/entropy_encode.hpp"
#include "kernel/entropy_frequencies.hpp"

namespace cachecard {
namespace {

constexpr double kFineSteps = 254.0;  ///< half steps in a fine row's largest value

}  // namespace

EntropyOverflow::EntropyOverflow(const PlanesStream& order, std::span<const std::uint32_t> group_widths,
                                 std::span<const float> scales, double growth)
    : order_(order),
      group_widths_(group_widths),
      scales_(scales),
      growth_(growth),
      safe_(safe_magnitude(order.dtype())) {
  const double largest = scales.empty() ? 0.0 : growth * double{*std::max_element(scales.begin(), scales.end())};
  reaches_ = !(order.bound(32768.0 * largest) <= safe_);
  largest_error_ = order.rope_bound() * largest * double{kernel::largest_error(kernel::kMultipliers.back())};
  fine_ = std::min(safe_ / (1.0 + order.rope_bound() * order.unrope_bound() / kFineSteps),
                   double{kMostFineScale} * 127.0 / order.unrope_bound());
}

bool EntropyOverflow::possible(const EntropyTokens& tokens, std::span<const std::byte> rows) const {
  if (!reaches_ && tokens.fine_count == 0) return false;
  for (std::size_t t = 0; t < tokens.count(); ++t) {
    const bool is_fine = tokens.kind[t] == TokenKind::kFine;
    if (tokens.kind[t] == TokenKind::kExact || (!is_fine && !reaches_)) continue;
    const double largest = largest_magnitude(order_.dtype(), rows.subspan(t * order_.row_size(), order_.row_size()));
    if (!(is_fine ? largest <= fine_ : largest + largest_error_ <= safe_)) return true;
  }
  return false;
}

void EntropyOverflow::mark(const EntropyTokens& tokens, std::span<const std::byte> rows, const ChunkValues& chunk,
                           float stream_energy, std::span<std::uint8_t> missed) const {
  const std::size_t groups = group_widths_.size();
  const std::size_t heads = order_.unit_count() / groups;
  const std::size_t head_size = order_.row_size() / heads;
  std::size_t first = 0;
  for (std::size_t head = 0; head < heads; ++head) {
    std::vector<double> error(tokens.count(), 0.0);
    for (std::size_t group = 0; group < groups; ++group) {
      const std::size_t unit = head * groups + group;
      const auto scales = scales_.subspan(first, group_widths_[group]);
      const double largest = order_.rope_bound() * growth_ * double{*std::max_element(scales.begin(), scales.end())};
      const auto steps = unit_tokens(tokens, tokens.of_head(head), chunk.unit_energy(unit), stream_energy, {});
      for (std::size_t t = 0; t < error.size(); ++t) {
        error[t] = std::max(error[t], largest * double{kernel::largest_error(steps[t].multiplier)});
      }
      first += group_widths_[group];
    }
    for (std::size_t t = 0; t < error.size(); ++t) {
      if (tokens.kind[t] == TokenKind::kExact) continue;
      const double largest = largest_magnitude(order_.dtype(), rows.subspan(t * order_.row_size() + head * head_size, head_size));
      const bool fits = tokens.kind[t] == TokenKind::kFine ? largest <= fine_ : largest + error[t] <= safe_;
      if (!fits) missed[t] = 1;
    }
  }
}

}  // namespace cachecard
