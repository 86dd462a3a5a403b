#include "codec/references.hpp"

#include <algorithm>
#include <array>
#include <unordered_map>

#include "format/entropy_layout.hpp"

namespace cachecard {
namespace {

constexpr std::size_t kLongestSuffix = 4;

struct Suffix {
  std::array<std::int32_t, kLongestSuffix> ids{};  ///< the latest first
  bool operator==(const Suffix&) const = default;
};

struct SuffixHash {
  std::size_t operator()(const Suffix& suffix) const {
    std::uint64_t hash = 0;
    for (const std::int32_t id : suffix.ids) hash = (hash ^ static_cast<std::uint32_t>(id)) * 0x9E3779B97F4A7C15ull;
    return static_cast<std::size_t>(hash ^ hash >> 32);
  }
};

}  // namespace

void suffix_references(std::span<const std::int32_t> before, std::span<const std::int32_t> ids,
                       std::span<std::uint16_t> out) {
  std::array<std::unordered_map<Suffix, std::size_t, SuffixHash>, kLongestSuffix> last;
  for (std::size_t t = 0; t < ids.size(); ++t) {
    out[t] = 0;
    const std::size_t known = std::min(kLongestSuffix, before.size() + t + 1);
    Suffix suffix;
    std::array<Suffix, kLongestSuffix> of_length;
    for (std::size_t k = 0; k < known; ++k) {
      suffix.ids[k] = t >= k ? ids[t - k] : before[before.size() - (k - t)];
      of_length[k] = suffix;
    }
    for (std::size_t k = known; k-- > 0 && out[t] == 0;) {
      const auto found = last[k].find(of_length[k]);
      if (found == last[k].end() || t - found->second > kMostDistance) continue;
      out[t] = static_cast<std::uint16_t>((t - found->second) | (k > 0 ? kSecondClass : 0));
    }
    for (std::size_t k = 0; k < known; ++k) last[k][of_length[k]] = t;
  }
}

}  // namespace cachecard
