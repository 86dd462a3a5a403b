#include <catch2/catch.hpp>
#include <cstdio>
#include <functional>
#include <numbers>

#include "planes_kernel_cases.hpp"

using namespace cachecard;
using namespace cachecard::planes_cases;
using kernel::PlanesInput;
using kernel::PlanesKernels;
using kernel::PlanesRow;
using kernel::PlanesShape;

/// How good the codec's own sine and cosine are, and RoPE with them.
namespace {

constexpr std::size_t kPairs = 32;
constexpr double kBase = 100000.0;  // SmolLM2's
constexpr std::int32_t kMost = 1 << 20;

std::vector<double> usual_frequencies() {
  std::vector<double> frequencies(kPairs);
  for (std::size_t i = 0; i < kPairs; ++i) frequencies[i] = std::pow(kBase, -static_cast<double>(i) / kPairs);
  return frequencies;
}

/// Distance from the exact value in units of its last place as an f32.
double ulps(float got, long double exact) {
  const int exponent = std::max(std::ilogb(exact), -126);
  return static_cast<double>(std::fabs(static_cast<long double>(got) - exact) / std::ldexp(1.0L, exponent - 23));
}

double worst_ulps(const std::vector<std::int32_t>& positions, const std::vector<double>& frequencies) {
  std::vector<float> angles(2 * frequencies.size());
  double worst = 0;
  for (const std::int32_t position : positions) {
    kernel::planes_kernels().rope_angles(std::span(&position, 1), frequencies, 1.0, angles.data());
    for (std::size_t i = 0; i < frequencies.size(); ++i) {
      const double theta = position * frequencies[i];
      worst = std::max(worst, ulps(angles[2 * i], std::cos(static_cast<long double>(theta))));
      worst = std::max(worst, ulps(angles[2 * i + 1], std::sin(static_cast<long double>(theta))));
    }
  }
  return worst;
}

/// The doubles next to multiples of pi/2, where sine or cosine is all rounding.
std::vector<double> near_zeros(fixtures::Random& random, int count) {
  std::vector<double> thetas;
  for (int i = 0; i < count; ++i) {
    const auto k = static_cast<long double>(random.below(667'544));  // 2^20 x 2 / pi
    const auto theta = static_cast<double>(k * (std::numbers::pi_v<long double> / 2));
    thetas.insert(thetas.end(), {theta, std::nextafter(theta, 0.0), std::nextafter(theta, 0x1p21)});
  }
  return thetas;
}

/// Undoes RoPE on a post-RoPE f16 row and puts it back with the same angles.
std::vector<std::byte> removed_and_restored(const PlanesKernels& set, const PlanesShape& shape,
                                            const std::vector<std::byte>& row, const float* angles) {
  std::vector<float> plain(shape.elements());
  set.to_card_order(shape, {.row = row.data(), .dtype = DType::kF16, .angles = angles}, plain.data());
  // A step of zero leaves the mean: the row exactly as it was before RoPE.
  const std::vector<std::byte> plane(shape.plane_row_bytes());
  const std::vector<float> steps(shape.units());
  PlanesRow coded{.width = 1, .steps = steps.data(), .mean = plain.data(), .angles = angles};
  coded.planes[0] = plane.data();
  std::vector<std::byte> out(row.size());
  std::vector<float> scratch(shape.head_dim);
  set.decode_row(shape, coded, {out.data(), static_cast<std::int64_t>(2 * shape.head_dim), DType::kF16}, scratch.data());
  return out;
}

float half_at(const std::vector<std::byte>& row, std::size_t i) {
  std::uint16_t half;
  std::memcpy(&half, &row[2 * i], 2);
  return kernel::f32_from_f16(half);
}

/// One unit in the last place of f16 at a magnitude.
float half_ulp_size(float magnitude) {
  return magnitude == 0 ? 0x1p-24f : std::ldexp(1.0f, std::max(std::ilogb(magnitude), -14) - 10);
}

/// The angles of a runtime at a position: {cos, sin} by pair.
using Runtime = std::function<std::vector<float>(std::int32_t)>;

/// source: ggml_rope_cache_init (ggml-cpu/ops.cpp): theta is multiplied on from pair to pair, in f32
std::vector<float> ggml_angles(std::int32_t position) {
  const float scale = std::pow(static_cast<float>(kBase), -2.0f / (2.0f * kPairs));
  std::vector<float> angles;
  float theta = static_cast<float>(position);
  for (std::size_t i = 0; i < kPairs; ++i) {
    angles.push_back(std::cos(theta));
    angles.push_back(std::sin(theta));
    theta *= scale;
  }
  return angles;
}

/// source: transformers, LlamaRotaryEmbedding.forward: position x inverse frequency, all in f32
std::vector<float> transformers_angles(std::int32_t position) {
  std::vector<float> angles;
  for (std::size_t i = 0; i < kPairs; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(2 * kPairs);
    const float theta = static_cast<float>(position) * (1.0f / std::pow(static_cast<float>(kBase), exponent));
    angles.push_back(std::cos(theta));
    angles.push_back(std::sin(theta));
  }
  return angles;
}

/// How far apart two sets of angles turn a key, relative to its length, if all its pairs are of one length.
template <class A, class B>
double difference(const std::vector<A>& a, const std::vector<B>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const auto off = static_cast<double>(static_cast<long double>(a[i]) - static_cast<long double>(b[i]));
    sum += off * off;
  }
  return std::sqrt(sum / kPairs);
}

}  // namespace

TEST_CASE("sine and cosine are within one f32 ulp up to 2^20", "[planes]") {
  std::vector<std::int32_t> dense;
  for (std::int32_t position = 0; position <= kMost; position += 13) dense.push_back(position);
  for (std::int32_t position = 0; position < 4096; ++position) dense.push_back(kMost - position);
  const double worst_dense = worst_ulps(dense, usual_frequencies());

  fixtures::Random random("planes sines");
  std::vector<double> frequencies(64);
  double worst_random = 0;
  for (int round = 0; round < 40; ++round) {
    for (double& frequency : frequencies) {
      frequency = static_cast<double>(random.below(std::uint64_t{1} << 53)) * 0x1p-53;
    }
    frequencies[0] = 1.0;
    std::vector<std::int32_t> positions(100);
    for (std::int32_t& position : positions) position = static_cast<std::int32_t>(random.below(kMost + 1));
    worst_random = std::max(worst_random, worst_ulps(positions, frequencies));
  }
  const double worst_near = worst_ulps({1}, near_zeros(random, 100'000));
  std::printf("sine and cosine, worst distance from long double: %.4f ulp dense, %.4f ulp random, %.4f ulp next to zeros\n",
              worst_dense, worst_random, worst_near);
  CHECK(worst_dense < 1.0);
  CHECK(worst_random < 1.0);
  CHECK(worst_near < 1.0);
  CHECK(worst_dense > 0.4);  // less is impossible: then nothing was compared
}

TEST_CASE("RoPE taken off and put back is within one f16 ulp of the pair's largest", "[planes]") {
  const std::vector<double> frequencies = usual_frequencies();
  for (const RopePairing pairing : {RopePairing::kInterleaved, RopePairing::kHalfSplit}) {
    const Case one{3, 2 * kPairs, 1, {2 * kPairs}, pairing, 0, 2 * kPairs};
    const PlanesShape shape = one.shape();
    for (const std::int32_t position : {0, 32768, 131072, 1 << 20}) {
      fixtures::Random random("planes rope " + std::to_string(position));
      std::vector<float> angles(2 * kPairs);
      kernel::planes_kernels().rope_angles(std::span(&position, 1), frequencies, 1.0, angles.data());
      double worst = 0;
      for (int round = 0; round < 200; ++round) {
        std::vector<float> values(shape.elements());
        for (float& value : values) value = pick(random, -10, 4);
        const std::vector<std::byte> row = in_type(values, DType::kF16);
        const std::vector<std::byte> back = removed_and_restored(kernel::planes_kernels(), shape, row, angles.data());
        for (std::size_t i = 0; i < shape.elements(); ++i) {
          const std::size_t head = i / (2 * kPairs) * 2 * kPairs;
          const std::size_t other = pairing == RopePairing::kInterleaved ? i ^ 1 : head + (i - head + kPairs) % (2 * kPairs);
          const float largest = std::max(std::fabs(half_at(row, i)), std::fabs(half_at(row, other)));
          const float off = std::fabs(half_at(back, i) - half_at(row, i));
          worst = std::max(worst, static_cast<double>(off / half_ulp_size(largest)));
        }
      }
      INFO("pairing " << static_cast<int>(pairing) << ", position " << position << ", worst " << worst);
      CHECK(worst <= 1.0);
    }
  }
}

TEST_CASE("a runtime's own f32 angles are further off than ours", "[planes]") {
  const std::vector<double> frequencies = usual_frequencies();
  std::printf("a rotated key's difference, relative, between angles (base %.0f, %zu pairs)\n", kBase, kPairs);
  std::printf("%10s %20s %20s %20s\n", "position", "ours to llama.cpp", "ours to transformers", "ours to exact");
  for (const std::int32_t position : {0, 32768, 131072, 1 << 20}) {
    std::vector<float> ours(2 * kPairs);
    kernel::planes_kernels().rope_angles(std::span(&position, 1), frequencies, 1.0, ours.data());
    std::vector<long double> exact;
    for (const double frequency : frequencies) {
      const long double theta = static_cast<long double>(position) * static_cast<long double>(frequency);
      exact.push_back(std::cos(theta));
      exact.push_back(std::sin(theta));
    }
    const double ggml = difference(ggml_angles(position), ours);
    const double transformers = difference(transformers_angles(position), ours);
    const double own = difference(ours, exact);
    std::printf("%10d %20.2e %20.2e %20.2e\n", position, ggml, transformers, own);
    CHECK(own < 0x1p-24);
    if (position > 0) CHECK(std::min(ggml, transformers) > 1000 * own);
  }
}
