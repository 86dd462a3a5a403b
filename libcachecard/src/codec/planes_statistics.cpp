#include <algorithm>
#include <bit>
#include <cmath>

#include "base/bytes.hpp"
#include "codec/planes_error.hpp"
#include "kernel/floats.hpp"
#include "kernel/ggml_blocks.hpp"

namespace cachecard {
namespace {

constexpr std::size_t kMostSamples = 64;
constexpr double kLeastShare = 1.0 / 64;  ///< of the energy: less does not pay for the f16 numbers
constexpr float kLargestHalf = 65504.0f;

/// Sum of squares of the largest magnitude of each group of each head.
double squared_ranges(const kernel::PlanesShape& shape, std::span<const float> row) {
  double sum = 0.0;
  std::size_t at = 0;
  for (std::uint32_t head = 0; head < shape.head_count; ++head) {
    for (const std::uint32_t width : shape.group_widths) {
      float largest = 0.0f;
      for (const std::size_t end = at + width; at < end; ++at) largest = std::max(largest, std::fabs(row[at]));
      sum += double{largest} * double{largest};
    }
  }
  return sum;
}

bool all_finite(std::span<const float> row) {
  std::uint32_t found = 0;
  for (const float value : row) {
    const std::uint32_t exponent = std::bit_cast<std::uint32_t>(value) & 0x7F800000u;
    found |= exponent == 0x7F800000u ? 1u : 0u;
  }
  return found == 0;
}

}  // namespace

void PlanesStatistics::add(std::span<const std::byte> rows, std::span<const std::uint8_t> coded, const float* angles) {
  const kernel::PlanesShape shape = stream_.shape();
  const std::size_t elements = stream_.element_count();
  std::vector<float> row(elements);
  const std::size_t stride = std::max<std::size_t>(1, coded.size() / (kMostSamples / 2));
  for (std::size_t t = 0; t < coded.size(); ++t) {
    if (coded[t] == 0) continue;
    const auto bytes = rows.subspan(t * stream_.row_size(), stream_.row_size());
    const kernel::PlanesInput input{bytes.data(), stream_.dtype(), nullptr,
                                    angles == nullptr ? nullptr : angles + t * 2 * stream_.pair_count(),
                                    stream_.unrotate_gain()};
    kernel::planes_kernels().to_card_order(shape, input, row.data());
    if (!all_finite(row)) continue;
    // Channel by channel in token order: the same sums on every machine, and loops that vectorise.
    for (std::size_t c = 0; c < elements; ++c) sum_[c] += double{row[c]};
    for (std::size_t c = 0; c < elements; ++c) squares_[c] += double{row[c]} * double{row[c]};
    ++count_;
    if (t % stride == 0 && samples_.size() < kMostSamples * elements) {
      samples_.insert(samples_.end(), row.begin(), row.end());
    }
  }
}

std::vector<std::byte> PlanesStatistics::means() const {
  if (count_ == 0) return {};
  double held = 0.0;
  double energy = 0.0;
  for (const double squares : squares_) energy += squares;
  std::vector<std::uint16_t> halves;
  for (const double sum : sum_) {
    const double mean = sum / static_cast<double>(count_);
    held += mean * sum;
    const auto value = static_cast<float>(mean);
    if (!(std::fabs(value) <= kLargestHalf)) return {};
    halves.push_back(kernel::f16_from_f32(value));
  }
  if (held < kLeastShare * energy) return {};
  ByteWriter out;
  out.numbers(std::span<const std::uint16_t>(halves));
  return out.take();
}

bool PlanesStatistics::rotation_helps(std::span<const std::byte> means, std::uint32_t n) const {
  const kernel::PlanesShape shape = stream_.shape();
  const std::size_t elements = stream_.element_count();
  const auto halves = load_numbers<std::uint16_t>(means);
  double plain = 0.0;
  double rotated = 0.0;
  std::vector<float> row(elements);
  for (std::size_t at = 0; at < samples_.size(); at += elements) {
    for (std::size_t c = 0; c < elements; ++c) {
      row[c] = samples_[at + c] - (halves.empty() ? 0.0f : kernel::f32_from_f16(halves[c]));
    }
    plain += squared_ranges(shape, row);
    kernel::hadamard(row, n);
    rotated += squared_ranges(shape, row);
  }
  return rotated <= plain;
}

namespace {

/// Squared error that q8_0 is expected to make in a row: step^2 / 12 a value, its step by blocks of 32.
double q8_0_error(std::span<const float> row) {
  double error = 0.0;
  for (std::size_t at = 0; at < row.size(); at += 32) {
    const auto block = row.subspan(at, std::min<std::size_t>(32, row.size() - at));
    float largest = 0.0f;
    for (const float value : block) largest = std::max(largest, std::fabs(value));
    const double step = double{largest} / 127.0;
    // A block of equal magnitudes is kept but for the rounding of d to f16.
    const bool flat = std::all_of(block.begin(), block.end(), [&](float v) { return std::fabs(v) == largest || v == 0.0f; });
    error += flat ? 0.0 : step * step / 12.0 * static_cast<double>(block.size());
  }
  return error;
}

}  // namespace

bool worse_than_q8_0(const PlanesStream& stream, const PlanesTokens& tokens, std::span<const std::byte> rows,
                     std::span<const std::int16_t> top, std::span<const std::byte> scale) {
  if (tokens.coded_count == 0 || tokens.longer[kMostBits - 1] != tokens.coded_count) return false;
  const kernel::PlanesShape shape = stream.shape();
  double ours = 0.0;
  double theirs = 0.0;
  std::vector<float> row(stream.element_count());
  for (const std::uint32_t t : tokens.order) {
    kernel::to_f32(stream.dtype(), rows.subspan(t * stream.row_size(), stream.row_size()), row);
    theirs += q8_0_error(row);
  }
  const std::size_t groups = shape.group_widths.size();
  for (std::size_t i = 0; i < scale.size(); ++i) {
    const auto s = static_cast<std::int32_t>(scale[i]);
    if (s == 0) continue;
    const std::size_t unit = i % top.size();
    const double step = double{kernel::planes_range(top[unit] + s - 255)} / 128.0;
    ours += step * step / 12.0 * shape.group_widths[unit % groups];
  }
  // 8 bits and a scale for each group cost less than 8.5: 6.02 dB a bit make up the difference. The expected errors
  // are good to a few per cent, which kSafety takes off.
  constexpr double kSafety = 1.05;
  const double bits = 8.0 + 8.0 * static_cast<double>(top.size()) / static_cast<double>(stream.element_count());
  return ours * kSafety > theirs * std::exp2(2.0 * std::max(0.0, 8.5 - bits));
}

}  // namespace cachecard
