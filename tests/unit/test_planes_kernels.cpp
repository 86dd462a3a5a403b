#include <catch2/catch.hpp>
#include <iostream>

#include "planes_kernel_cases.hpp"

using namespace cachecard;
using namespace cachecard::planes_cases;
using kernel::PlanesInput;
using kernel::PlanesKernels;
using kernel::PlanesRow;
using kernel::PlanesShape;
using kernel::RowOutcome;
using kernel::RowTarget;

namespace {

constexpr DType kTypes[] = {DType::kF32, DType::kF16, DType::kBf16};

/// All but the scalar one.
std::span<const PlanesKernels* const> simd_targets() {
  return kernel::planes_targets().first(kernel::planes_targets().size() - 1);
}

std::size_t size_of(DType dtype) { return dtype == DType::kF32 ? 4 : 2; }

/// One coded row; every plane is its own allocation, so that a sanitizer sees a byte too many.
struct CodedRow {
  std::vector<std::vector<std::byte>> planes;
  std::vector<float> steps;
  std::vector<float> means;
  std::vector<float> angles;

  CodedRow(fixtures::Random& random, const PlanesShape& shape, std::uint32_t width) {
    for (std::uint32_t p = 0; p < width; ++p) planes.push_back(fixtures::random_bytes(random, shape.plane_row_bytes()));
    for (std::size_t u = 0; u < shape.units(); ++u) {
      // Usual steps; some that reach f16's subnormals, its infinity, f32's subnormals; and a zero head.
      const int low = std::vector{-8, -8, -8, -30, 10, -140}[random.below(6)];
      steps.push_back(random.below(9) == 0 ? 0.0f : std::fabs(pick(random, low, low + 6)));
    }
    means = pick_means(random, shape.elements());
    angles = pick_angles(random, shape.rotated_width / 2);
  }

  PlanesRow row(bool with_mean, bool with_angles) const {
    PlanesRow row{.width = static_cast<std::uint32_t>(planes.size()), .steps = steps.data()};
    for (std::size_t p = 0; p < planes.size(); ++p) row.planes[p] = planes[p].data();
    if (with_mean) row.mean = means.data();
    if (with_angles) row.angles = angles.data();
    return row;
  }
};

/// The whole target after decoding: what no value covers must stay as it was.
std::vector<std::byte> decoded(const PlanesKernels& set, const PlanesShape& shape, const PlanesRow& row, DType dtype,
                               std::size_t gap) {
  const std::size_t stride = shape.head_dim * size_of(dtype) + gap;
  std::vector<std::byte> out(shape.head_count * stride + 1, std::byte{0xA5});
  std::vector<float> scratch(shape.head_dim);
  set.decode_row(shape, row, {out.data() + 1, static_cast<std::int64_t>(stride), dtype}, scratch.data());
  return out;
}

bool decodes_alike(const PlanesKernels& set, const Case& one, std::uint32_t width, fixtures::Random& random) {
  const PlanesShape shape = one.shape();
  const CodedRow coded(random, shape, width);
  const std::size_t gap = random.below(3) * 6;
  for (const DType dtype : kTypes) {
    for (const int options : {0, 1, 2, 3}) {
      const PlanesRow row = coded.row((options & 1) != 0, (options & 2) != 0 && shape.rotated_width > 0);
      if (decoded(set, shape, row, dtype, gap) != decoded(kernel::planes_scalar(), shape, row, dtype, gap)) {
        return false;
      }
    }
  }
  return true;
}

/// Several rows at once, into a target aligned to vectors or not: against the scalar set row by row.
bool rows_decode_alike(const PlanesKernels& set, const Case& one, std::uint32_t width, DType dtype, bool aligned,
                       fixtures::Random& random) {
  const PlanesShape shape = one.shape();
  const std::size_t row_count = 1 + random.below(5);
  Case all = one;
  all.head_count *= static_cast<std::uint32_t>(row_count);
  const CodedRow coded(random, shape, width);
  const CodedRow rows(random, all.shape(), width);  // planes and steps of all rows, one after the other
  std::vector<std::vector<std::byte>> planes;
  for (std::uint32_t p = 0; p < width; ++p) {
    planes.push_back(fixtures::random_bytes(random, row_count * shape.plane_row_bytes()));
  }
  const std::vector<float> angles = pick_angles(random, row_count * shape.rotated_width / 2);
  const std::size_t head_bytes = shape.head_dim * size_of(dtype);
  const auto head_stride = static_cast<std::int64_t>(aligned ? (head_bytes + 63) / 64 * 64 : head_bytes + 2);
  const std::int64_t row_stride = (head_stride * shape.head_count + 63) / 64 * 64 + (aligned ? 64 : 2);
  PlanesRow first{.width = width, .steps = rows.steps.data()};
  for (std::uint32_t p = 0; p < width; ++p) first.planes[p] = planes[p].data();
  if (random.below(2) == 0) first.mean = coded.means.data();
  if (random.below(4) != 0 && shape.rotated_width > 0) first.angles = angles.data();
  std::vector<float> scratch(shape.head_dim);
  const auto run = [&](const PlanesKernels& kernels) {
    std::vector<std::byte> out(row_count * static_cast<std::size_t>(row_stride) + 256, std::byte{0xA5});
    std::byte* base = out.data() + (64 - reinterpret_cast<std::uintptr_t>(out.data()) % 64);
    kernels.decode_rows(shape, first, row_count, {base, head_stride, dtype}, row_stride, scratch.data());
    return std::vector<std::byte>(base, base + row_count * static_cast<std::size_t>(row_stride));
  };
  return run(set) == run(kernel::planes_scalar());
}

/// What a row may hold.
enum class Content { kUsual, kWide, kZeroHeads, kDenormal, kNotFinite, kOutOfReach };
constexpr Content kContents[] = {Content::kUsual,    Content::kWide,      Content::kZeroHeads,
                                 Content::kDenormal, Content::kNotFinite, Content::kOutOfReach};

std::vector<float> pick_values(fixtures::Random& random, const PlanesShape& shape, Content content) {
  std::vector<float> values(shape.elements());
  for (float& value : values) value = content == Content::kWide ? pick(random, -24, 15) : pick(random, -3, 3);
  const std::size_t one = random.below(values.size());
  if (content == Content::kZeroHeads) {
    for (std::size_t i = 0; i < values.size(); ++i)
      if (i / shape.head_dim % 2 == 0) values[i] = i % 3 == 0 ? -0.0f : 0.0f;
  } else if (content == Content::kDenormal) {
    for (float& value : values)
      if (random.below(3) == 0) value = pick(random, -24, -14);
  } else if (content == Content::kNotFinite) {
    const auto bits = static_cast<std::uint32_t>(0x7F800000u | random.below(1 << 23) | random.below(2) << 31);
    values[one] = random.below(2) == 0 ? std::numeric_limits<float>::infinity() : std::bit_cast<float>(bits);
  } else if (content == Content::kOutOfReach) {
    const float scale = random.below(2) == 0 ? 0x1p97f : 0x1p-102f;  // on either side of what a range reaches
    for (float& value : values) value *= scale;
  }
  return values;
}

struct Encoded {
  RowOutcome outcome;
  std::vector<std::vector<std::byte>> planes;
  std::vector<std::int16_t> ranges;
  bool operator==(const Encoded& other) const {
    if (outcome != other.outcome) return false;
    return outcome != RowOutcome::kCoded || (planes == other.planes && ranges == other.ranges);
  }
};

Encoded encoded(const PlanesKernels& set, const PlanesShape& shape, const PlanesInput& input, std::uint32_t width) {
  Encoded result{.outcome = RowOutcome::kCoded,
                 .planes = std::vector(width, std::vector(shape.plane_row_bytes(), std::byte{0x5A})),
                 .ranges = std::vector<std::int16_t>(shape.units())};
  std::vector<std::byte*> planes;
  for (std::vector<std::byte>& plane : result.planes) planes.push_back(plane.data());
  std::vector<float> scratch(shape.elements());
  result.outcome = set.encode_row(shape, input, width, planes, result.ranges.data(), scratch.data());
  return result;
}

/// A NaN that hardware conversions would make quiet.
void put_signalling_nan(std::vector<std::byte>& row, std::size_t i, DType dtype) {
  const std::uint32_t wide = 0xFF800123u;
  const std::uint16_t half = dtype == DType::kF16 ? 0x7C05 : 0xFF83;
  const std::size_t size = size_of(dtype);
  std::memcpy(&row[i * size], size == 4 ? static_cast<const void*>(&wide) : &half, size);
}

/// Same bits, or both NaN where arithmetic met a NaN: which payload comes out is the processor's business.
bool same_floats(const std::vector<float>& a, const std::vector<float>& b, bool computed) {
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (std::bit_cast<std::uint32_t>(a[i]) == std::bit_cast<std::uint32_t>(b[i])) continue;
    if (!computed || !std::isnan(a[i]) || !std::isnan(b[i])) return false;
  }
  return true;
}

bool encodes_alike(const PlanesKernels& set, const Case& one, std::uint32_t width, Content content,
                   fixtures::Random& random) {
  const PlanesShape shape = one.shape();
  const std::vector<float> values = pick_values(random, shape, content);
  const std::vector<float> means = pick_means(random, shape.elements());
  const std::vector<float> angles = pick_angles(random, shape.rotated_width / 2);
  for (const DType dtype : kTypes) {
    std::vector<std::byte> row = in_type(values, dtype);
    if (content == Content::kNotFinite) put_signalling_nan(row, random.below(values.size()), dtype);
    for (const int options : {0, 1, 2, 3}) {
      PlanesInput input{.row = row.data(), .dtype = dtype};
      if ((options & 1) != 0) input.mean = means.data();
      if ((options & 2) != 0 && shape.rotated_width > 0) input.angles = angles.data(), input.unrotate_gain = 0.71f;
      if (!(encoded(set, shape, input, width) == encoded(kernel::planes_scalar(), shape, input, width))) return false;
      std::vector<float> got(shape.elements());
      std::vector<float> wanted(shape.elements());
      set.to_card_order(shape, input, got.data());
      kernel::planes_scalar().to_card_order(shape, input, wanted.data());
      if (!same_floats(got, wanted, options != 0)) return false;
    }
  }
  return true;
}

}  // namespace

TEST_CASE("the sets of planes loops end with the scalar one", "[planes]") {
  REQUIRE(!kernel::planes_targets().empty());
  CHECK(kernel::planes_targets().back() == &kernel::planes_scalar());
  CHECK(kernel::planes_targets().front() == &kernel::planes_kernels());
  for (const PlanesKernels* set : kernel::planes_targets()) std::cout << "planes target: " << set->name << "\n";
#ifdef CACHECARD_EXPECTED_TARGET
  CHECK(std::string(kernel::planes_kernels().name) == CACHECARD_EXPECTED_TARGET);
#endif
}

TEST_CASE("every SIMD target decodes planes to the scalar bits", "[planes]") {
  for (const PlanesKernels* set : simd_targets()) {
    for (const Case& one : all_cases()) {
      fixtures::Random random("planes decode " + one.name());
      for (std::uint32_t width = 1; width <= kernel::kMostPlanes; ++width) {
        INFO(set->name << ": " << one.name() << ", width " << width << ", seeded by its name");
        if (!decodes_alike(*set, one, width, random)) FAIL_CHECK("other bits");
      }
    }
  }
}

TEST_CASE("every SIMD target decodes runs of rows to the scalar bits", "[planes]") {
  for (const PlanesKernels* set : simd_targets()) {
    for (const Case& one : all_cases()) {
      fixtures::Random random("planes rows " + one.name());
      for (const DType dtype : kTypes) {
        for (const bool aligned : {false, true}) {
          const auto width = static_cast<std::uint32_t>(1 + random.below(kernel::kMostPlanes));
          INFO(set->name << ": " << one.name() << ", width " << width << ", type " << static_cast<int>(dtype)
                         << ", seeded by its name");
          if (!rows_decode_alike(*set, one, width, dtype, aligned, random)) FAIL_CHECK("other bits");
        }
      }
    }
  }
}

TEST_CASE("every SIMD target encodes planes to the scalar bytes", "[planes]") {
  for (const PlanesKernels* set : simd_targets()) {
    for (const Case& one : all_cases()) {
      fixtures::Random random("planes encode " + one.name());
      for (const Content content : kContents) {
        const auto width = static_cast<std::uint32_t>(1 + random.below(kernel::kMostPlanes));
        INFO(set->name << ": " << one.name() << ", width " << width << ", content " << static_cast<int>(content)
                       << ", seeded by its name");
        if (!encodes_alike(*set, one, width, content, random)) FAIL_CHECK("other bytes");
      }
    }
  }
}

TEST_CASE("every SIMD target computes the scalar RoPE angles", "[planes]") {
  fixtures::Random random("planes angles");
  std::vector<std::int32_t> positions{0, 1, 2, 3, 4, 5, -1, -7, 32768, 131072, 1 << 20, INT32_MAX, INT32_MIN};
  for (int i = 0; i < 200; ++i) positions.push_back(static_cast<std::int32_t>(random.below(1 << 20)));
  for (const std::size_t count : {1, 2, 3, 5, 8, 15, 16, 31, 32, 64}) {
    std::vector<double> frequencies;
    for (std::size_t i = 0; i < count; ++i) {
      frequencies.push_back(std::pow(10000.0, -static_cast<double>(i) / static_cast<double>(count)));
    }
    for (const double magnitude : {1.0, 1.1386294361119891, 0.1}) {
      std::vector<float> wanted(2 * count * positions.size());
      kernel::planes_scalar().rope_angles(positions, frequencies, magnitude, wanted.data());
      for (const PlanesKernels* set : simd_targets()) {
        std::vector<float> got(wanted.size());
        set->rope_angles(positions, frequencies, magnitude, got.data());
        INFO(set->name << ", " << count << " frequencies, magnitude " << magnitude);
        CHECK(same_floats(got, wanted, false));
      }
    }
  }
}

TEST_CASE("a range is the smallest sixteenth of an octave that reaches", "[planes]") {
  for (std::int32_t k = kernel::kLeastRange; k <= kernel::kMostRange; ++k) {
    const float range = kernel::planes_range(k);
    INFO("k " << k);
    CHECK(std::fabs(std::log2(static_cast<double>(range)) - k / 16.0) < 1e-6);
    CHECK(kernel::planes_range_for(range) == k);
    if (k < kernel::kMostRange) CHECK(kernel::planes_range_for(std::nextafter(range, 0x1p120f)) == k + 1);
  }
  for (std::uint32_t width = 1; width <= kernel::kMostPlanes; ++width) {
    const float part = std::ldexp(1.0f, -static_cast<int>(width));
    CHECK(kernel::planes_step(1.5f, width, 1) == 1.5f * part);
    CHECK(kernel::planes_step(1.5f, width, 8) == 1.5f * part * (1.0f / std::sqrt(8.0f)));
  }
}
