// What `entropy` finds out about values before it codes them, in vectors. Included once a target by entropy_simd.cpp.
#if defined(CACHECARD_ENTROPY_SUMS_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef CACHECARD_ENTROPY_SUMS_INL
#undef CACHECARD_ENTROPY_SUMS_INL
#else
#define CACHECARD_ENTROPY_SUMS_INL
#endif

#include <hwy/highway.h>

#include <cstring>

#include "kernel/entropy_encode.hpp"
#include "kernel/planes_vectors_inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace cachecard::kernel::HWY_NAMESPACE {
#if HWY_NATIVE_FMA

HWY_INLINE void add_floats(hn::VFromD<Floats> sums, double* totals) {
  alignas(64) float each[kLanes];
  hn::Store(sums, Floats(), each);
  for (std::size_t i = 0; i < kLanes; ++i) totals[i] += double{each[i]};
}

HWY_NOINLINE void add_products(std::span<const StripToken> tokens, const StripValues& values, const float* squared_scale,
                               WeightSums& sums) {
  const Floats d;
  for (std::size_t first = 0; first < tokens.size(); first += kProductBlock) {
    const ProductBlock block(tokens, first);
    for (std::size_t k = 1; k < 3; ++k) {
      for (std::size_t c = 0; c < kStripChannels; c += kLanes) {
        const auto scale = hn::LoadU(d, squared_scale + c);
        auto product = hn::Zero(d);
        auto square = hn::Zero(d);
        for (std::size_t i = 0; i < block.count[k]; ++i) {
          const ProductBlock::Item& item = block.items[k][i];
          const auto own = hn::LoadU(d, values.token(item.token) + c);
          const auto other = hn::LoadU(d, values.token(item.from) + c);
          const auto inverse = hn::Set(d, item.inverse);
          const auto energy = hn::Mul(other, other);
          const auto rounding = hn::Min(hn::Mul(hn::Set(d, item.noise), scale), energy);
          product = hn::Add(product, hn::Mul(hn::Mul(own, other), inverse));
          square = hn::Add(square, hn::Mul(hn::Add(energy, rounding), inverse));
        }
        add_floats(product, sums.product[k].data() + c);
        add_floats(square, sums.square[k].data() + c);
      }
    }
  }
}

HWY_NOINLINE void add_costs(const std::uint16_t* costs, std::span<const CostToken> tokens, const std::int16_t* index,
                            const std::uint8_t* first_level, CostSums& sums) {
  const hn::CappedTag<std::uint32_t, kCostWindow> words;
  const hn::Rebind<std::uint16_t, decltype(words)> halves;
  constexpr std::size_t kRun = hn::MaxLanes(decltype(words)());
  for (std::size_t c = 0; c < kStripChannels; ++c) {
    for (std::size_t w = 0; w < kCostWindow; w += kRun) {
      auto total = [&](std::size_t half, std::size_t shape) { return sums[half][c][shape].data() + w; };
      auto first0 = hn::LoadU(words, total(0, 0));
      auto first1 = hn::LoadU(words, total(0, 1));
      auto second0 = hn::LoadU(words, total(1, 0));
      auto second1 = hn::LoadU(words, total(1, 1));
      const auto cost_of = [&](const CostToken& token) {
        return costs_of(costs, index[token.token * kStripChannels + c]) + token.sum + first_level[c] + w;
      };
      const auto load = [&](const std::uint16_t* cost) { return hn::PromoteTo(words, hn::LoadU(halves, cost)); };
      std::size_t n = 0;
      for (; n + 2 <= tokens.size(); n += 2) {
        const std::uint16_t* a = cost_of(tokens[n]);
        const std::uint16_t* b = cost_of(tokens[n + 1]);
        first0 = hn::Add(first0, load(a));
        first1 = hn::Add(first1, load(a + kCostSums));
        second0 = hn::Add(second0, load(b));
        second1 = hn::Add(second1, load(b + kCostSums));
      }
      if (n < tokens.size()) {
        const std::uint16_t* a = cost_of(tokens[n]);
        first0 = hn::Add(first0, load(a));
        first1 = hn::Add(first1, load(a + kCostSums));
      }
      hn::StoreU(first0, words, total(0, 0));
      hn::StoreU(first1, words, total(0, 1));
      hn::StoreU(second0, words, total(1, 0));
      hn::StoreU(second1, words, total(1, 1));
    }
  }
}

HWY_NOINLINE void add_moments(std::span<const float> rows, std::span<const float> origin, double* sums, double* squares) {
  const Floats d;
  const std::size_t channels = origin.size();
  const std::size_t count = rows.size() / channels;
  const std::size_t whole = channels / kLanes * kLanes;
  for (std::size_t first = 0; first < count; first += kMomentBlock) {
    const std::size_t end = std::min(count, first + kMomentBlock);
    for (std::size_t c = 0; c < whole; c += kLanes) {
      const auto from = hn::LoadU(d, origin.data() + c);
      auto sum = hn::Zero(d);
      auto square = hn::Zero(d);
      for (std::size_t t = first; t < end; ++t) {
        const auto v = hn::Sub(hn::LoadU(d, rows.data() + t * channels + c), from);
        sum = hn::Add(sum, v);
        square = hn::Add(square, hn::Mul(v, v));
      }
      add_floats(sum, sums + c);
      add_floats(square, squares + c);
    }
    for (std::size_t c = whole; c < channels; ++c) {
      float sum = 0.0f;
      float square = 0.0f;
      for (std::size_t t = first; t < end; ++t) {
        const float v = rows[t * channels + c] - origin[c];
        sum += v;
        square += v * v;
      }
      sums[c] += double{sum};
      squares[c] += double{square};
    }
  }
}

/// sum_of_parts of one vector's lanes.
template <class D>
HWY_INLINE float sum_of_halves([[maybe_unused]] D d, hn::VFromD<D> v) {
  if constexpr (hn::MaxLanes(D()) == 1) {
    return hn::GetLane(v);
  } else {
    const hn::Half<D> half;
    return sum_of_halves(half, hn::Add(hn::LowerHalf(half, v), hn::UpperHalf(half, v)));
  }
}

/// Mean square of one head vector.
HWY_INLINE float energy_of(const float* values, std::size_t width) {
  const Floats d;
  constexpr std::size_t kParts = kEnergyParts / kLanes;
  hn::VFromD<Floats> sums[kParts];
  for (auto& sum : sums) sum = hn::Zero(d);
  const std::size_t whole = width / kEnergyParts * kEnergyParts;
  for (std::size_t c = 0; c < whole; c += kEnergyParts) {
    for (std::size_t p = 0; p < kParts; ++p) {
      const auto v = hn::LoadU(d, values + c + p * kLanes);
      sums[p] = hn::Add(sums[p], hn::Mul(v, v));
    }
  }
  if (whole < width) {
    std::array<float, kEnergyParts> parts;
    for (std::size_t p = 0; p < kParts; ++p) hn::StoreU(sums[p], d, parts.data() + p * kLanes);
    for (std::size_t c = whole; c < width; ++c) parts[c % kEnergyParts] += values[c] * values[c];
    return sum_of_parts(parts) / static_cast<float>(width);
  }
  for (std::size_t half = kParts / 2; half > 0; half /= 2) {
    for (std::size_t p = 0; p < half; ++p) sums[p] = hn::Add(sums[p], sums[p + half]);
  }
  return sum_of_halves(d, sums[0]) / static_cast<float>(width);
}

HWY_NOINLINE bool row_energy(std::span<const float> row, std::span<const std::uint32_t> group_widths, float* energy,
                             std::size_t stride) {
  if (energy != nullptr) {
    std::size_t unit = 0;
    for (std::size_t at = 0; at < row.size(); ++unit) {
      const std::size_t width = group_widths[unit % group_widths.size()];
      energy[unit * stride] = energy_of(row.data() + at, width);
      at += width;
    }
  }
  return largest_bits(row.data(), row.size()) < 0x7F800000u;
}

#endif  // HWY_NATIVE_FMA
}  // namespace cachecard::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
