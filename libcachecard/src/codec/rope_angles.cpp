#include "codec/rope_angles.hpp"

#include "kernel/planes.hpp"

namespace cachecard {

std::shared_ptr<const Angles> AngleCache::get(const AngleSpan& span, const RopeTable& table,
                                              std::span<const std::int32_t> positions) {
  const auto made = recent_.get(span, [&]() -> Result<std::shared_ptr<const Angles>> {
    auto angles = std::make_shared<Angles>(positions.size() * table.inverse_frequencies.size() * 2);
    kernel::planes_kernels().rope_angles(positions, table.inverse_frequencies, table.record.magnitude, angles->data());
    return std::shared_ptr<const Angles>(std::move(angles));
  });
  return *made;
}

}  // namespace cachecard
