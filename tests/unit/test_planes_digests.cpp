#include <catch2/catch.hpp>
#include <cstdio>

#include "cachecard/digest.hpp"
#include "planes_kernel_cases.hpp"

using namespace cachecard;
using namespace cachecard::planes_cases;
using kernel::PlanesInput;
using kernel::PlanesKernels;
using kernel::PlanesRow;
using kernel::PlanesShape;

/// The promise that one input gives one card on every processor: x86-64 and AArch64 compare with the same numbers.
namespace {

/// All that leaves the loops, in one run of bytes.
class Output {
 public:
  template <class T>
  void add(const std::vector<T>& values) {
    const auto* first = reinterpret_cast<const std::byte*>(values.data());
    bytes_.insert(bytes_.end(), first, first + values.size() * sizeof(T));
  }
  std::uint64_t digest() const { return digest64(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

/// Magnitudes of about 1, drawn without the C library, whose functions differ between machines.
std::vector<float> draw(fixtures::Random& random, std::size_t count) {
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(random.below(1 << 20)) * 0x1p-18f - 2.0f;
  return values;
}

std::vector<float> angles_of(const PlanesKernels& set, std::int32_t position, std::size_t pairs) {
  std::vector<double> frequencies(pairs);
  for (std::size_t i = 0; i < pairs; ++i) frequencies[i] = 1.0 / static_cast<double>(1 + 37 * i);
  std::vector<float> angles(2 * pairs);
  set.rope_angles(std::span(&position, 1), frequencies, 1.0, angles.data());
  return angles;
}

/// Encodes a row and decodes what came of it.
void round_trip(const PlanesKernels& set, const Case& one, std::uint32_t width, fixtures::Random& random, Output& output) {
  const PlanesShape shape = one.shape();
  const std::vector<float> means = draw(random, shape.elements());
  const std::vector<float> angles = angles_of(set, static_cast<std::int32_t>(random.below(1 << 20)), shape.rotated_width / 2);
  const std::vector<std::byte> source = in_type(draw(random, shape.elements()), DType::kF16);
  std::vector<std::vector<std::byte>> planes(width, std::vector<std::byte>(shape.plane_row_bytes()));
  std::vector<std::byte*> at;
  for (std::vector<std::byte>& plane : planes) at.push_back(plane.data());
  std::vector<std::int16_t> ranges(shape.units());
  std::vector<float> scratch(shape.elements());
  PlanesInput input{.row = source.data(), .dtype = DType::kF16, .mean = means.data()};
  if (!angles.empty()) input.angles = angles.data();
  REQUIRE(set.encode_row(shape, input, width, at, ranges.data(), scratch.data()) == kernel::RowOutcome::kCoded);
  output.add(angles);
  output.add(ranges);
  PlanesRow row{.width = width, .mean = means.data(), .angles = input.angles};
  std::vector<float> steps;
  for (const std::int16_t k : ranges) {
    steps.push_back(k == kernel::kZeroRange ? 0.0f
                                            : kernel::planes_step(kernel::planes_range(k), width, shape.hadamard_size));
  }
  row.steps = steps.data();
  for (std::uint32_t p = 0; p < width; ++p) {
    output.add(planes[p]);
    row.planes[p] = planes[p].data();
  }
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBf16}) {
    const std::size_t size = dtype == DType::kF32 ? 4 : 2;
    std::vector<std::byte> decoded(shape.elements() * size);
    set.decode_row(shape, row, {decoded.data(), static_cast<std::int64_t>(shape.head_dim * size), dtype},
                   scratch.data());
    output.add(decoded);
  }
}

}  // namespace

TEST_CASE("planes gives the same bytes on every processor", "[planes]") {
  for (const PlanesKernels* set : kernel::planes_targets()) {
    fixtures::Random random("planes digests");
    Output output;
    for (const Case& one : all_cases()) {
      for (std::uint32_t width = 1; width <= kernel::kMostPlanes; ++width) round_trip(*set, one, width, random, output);
    }
    std::printf("planes digest by %s: %016llx\n", set->name, static_cast<unsigned long long>(output.digest()));
    CHECK(output.digest() == 0x5C5F6B18792BF14Eu);
  }
}
