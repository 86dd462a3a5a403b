// Times the loops of `planes`, each SIMD target forced, against memcpy of the same bytes in the same run.
//   planes_bench [--json FILE] [--rounds N]

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <functional>
#include <string>
#include <vector>

#include "kernel/floats.hpp"
#include "kernel/planes.hpp"

using namespace cachecard;
using kernel::PlanesKernels;
using kernel::PlanesShape;

namespace {

constexpr std::size_t kOutputBytes = std::size_t{256} << 20;

/// What is timed.
struct Setting {
  std::string name;
  std::uint32_t head_count;
  std::uint32_t head_dim;
  std::uint32_t width;
  bool full;  ///< with Hadamard 64, mean and RoPE
  RopePairing pairing;
  DType dtype;
};

struct Result {
  std::string target;
  std::string what;
  double ratio;  ///< memcpy's time / time: 1 is as fast
  double gigabytes_per_second;
};

/// Of this thread: whoever else runs on the machine does not count.
double thread_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

double seconds_of(const std::function<void()>& work) {
  const double start = thread_seconds();
  work();
  return thread_seconds() - start;
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

/// The machine is shared: memcpy and the work take turns, and the median of the quotients counts.
double ratio_to(const std::function<void()>& copy, const std::function<void()>& work, int rounds, double& seconds) {
  std::vector<double> ratios;
  std::vector<double> times;
  work();
  for (int i = 0; i < rounds; ++i) {
    const double before = seconds_of(copy);
    times.push_back(seconds_of(work));
    const double after = seconds_of(copy);
    ratios.push_back(std::min(before, after) / times.back());
  }
  seconds = median(times);
  return median(ratios);
}

std::uint64_t next_random(std::uint64_t& state) {
  std::uint64_t z = (state += 0x9E3779B97F4A7C15u);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

std::vector<std::byte> random_bytes(std::size_t size) {
  std::uint64_t state = 1;
  std::vector<std::byte> bytes(size + 8);
  for (std::size_t i = 0; i < size; i += 8) {
    const std::uint64_t draw = next_random(state);
    std::memcpy(&bytes[i], &draw, 8);
  }
  return bytes;
}

std::vector<float> random_floats(std::size_t count) {
  std::uint64_t state = 2;
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(next_random(state) >> 40) * 0x1p-23f - 1.0f;
  return values;
}

/// A chunk of rows, and all that decoding or encoding it needs.
class Chunk {
 public:
  Chunk(const Setting& setting, std::span<std::byte> output, std::vector<std::byte>& other)
      : setting_(setting), groups_{setting.head_dim}, value_bytes_(setting.dtype == DType::kF32 ? 4 : 2),
        output_(output), other_(other) {
    shape_ = {.head_count = setting.head_count,
              .head_dim = setting.head_dim,
              .hadamard_size = setting.full ? 64u : 1u,
              .group_widths = groups_,
              .pairing = setting.full ? setting.pairing : RopePairing::kNone,
              .rotated_width = setting.full ? setting.head_dim : 0};
    rows_ = kOutputBytes / (value_bytes_ * shape_.elements());
    planes_ = random_bytes(rows_ * shape_.plane_row_bytes() * setting.width);
    steps_ = std::vector<float>(rows_ * shape_.units(), 0.01f);
    means_ = random_floats(shape_.elements());
    angles_ = random_floats(kPositions * shape_.rotated_width);
    scratch_.resize(shape_.elements());
    ranges_.resize(shape_.units());
  }

  void copy() { std::memcpy(output_.data(), other_.data(), row_bytes() * rows_); }

  /// As a codec does it: in runs of neighbours, as far as the table of angles goes.
  void decode(const PlanesKernels& set) {
    for (std::size_t r = 0; r < rows_; r += kPositions) {
      kernel::PlanesRow row{.width = setting_.width, .steps = &steps_[r * shape_.units()]};
      for (std::size_t p = 0; p < setting_.width; ++p) row.planes[p] = plane_row(p, r);
      if (setting_.full) row.mean = means_.data(), row.angles = angles_.data();
      set.decode_rows(shape_, row, std::min(kPositions, rows_ - r),
                      {.base = output_.data() + r * row_bytes(),
                       .head_stride = static_cast<std::int64_t>(value_bytes_ * shape_.head_dim),
                       .dtype = setting_.dtype},
                      static_cast<std::int64_t>(row_bytes()), scratch_.data());
    }
  }

  void encode(const PlanesKernels& set) {
    std::byte* planes[kernel::kMostPlanes];
    for (std::size_t r = 0; r < rows_; ++r) {
      for (std::size_t p = 0; p < setting_.width; ++p) planes[p] = plane_row(p, r);
      kernel::PlanesInput input{.row = other_.data() + r * row_bytes(), .dtype = setting_.dtype};
      if (setting_.full) input.mean = means_.data(), input.angles = angles_of(r);
      const auto outcome = set.encode_row(shape_, input, setting_.width, {planes, setting_.width}, ranges_.data(),
                                          scratch_.data());
      if (outcome != kernel::RowOutcome::kCoded) std::abort();
    }
  }

 private:
  static constexpr std::size_t kPositions = 2048;

  std::size_t row_bytes() const { return value_bytes_ * shape_.elements(); }
  std::byte* plane_row(std::size_t p, std::size_t r) {
    return planes_.data() + (p * rows_ + r) * shape_.plane_row_bytes();
  }
  const float* angles_of(std::size_t r) const { return &angles_[r % kPositions * shape_.rotated_width]; }

  Setting setting_;
  std::vector<std::uint32_t> groups_;
  std::size_t value_bytes_;
  std::span<std::byte> output_;
  std::vector<std::byte>& other_;
  PlanesShape shape_;
  std::size_t rows_ = 0;
  std::vector<std::byte> planes_;
  std::vector<float> steps_;
  std::vector<float> means_;
  std::vector<float> angles_;
  std::vector<float> scratch_;
  std::vector<std::int16_t> ranges_;
};

std::vector<Setting> decode_settings() {
  std::vector<Setting> settings;
  for (const auto& [heads, dim] : {std::pair{3u, 64u}, std::pair{8u, 128u}}) {
    const std::string size = std::to_string(heads) + "x" + std::to_string(dim);
    for (const std::uint32_t width : {3u, 4u, 8u}) {
      const std::string bits = " " + std::to_string(width) + " bit";
      settings.push_back({"bare " + size + bits, heads, dim, width, false, RopePairing::kNone, DType::kF16});
      settings.push_back({"full " + size + bits, heads, dim, width, true, RopePairing::kInterleaved, DType::kF16});
      settings.push_back({"full half_split " + size + bits, heads, dim, width, true, RopePairing::kHalfSplit, DType::kF16});
    }
    settings.push_back({"full " + size + " 4 bit bf16", heads, dim, 4, true, RopePairing::kInterleaved, DType::kBf16});
    settings.push_back({"full " + size + " 4 bit f32", heads, dim, 4, true, RopePairing::kInterleaved, DType::kF32});
  }
  return settings;
}

/// f16 values for the encoder, in the buffer that memcpy reads.
void fill_values(std::vector<std::byte>& buffer) {
  const std::vector<float> values = random_floats(1 << 16);
  for (std::size_t i = 0; i < buffer.size() / 2; ++i) {
    const std::uint16_t half = kernel::f16_from_f32(values[i % values.size()]);
    std::memcpy(&buffer[2 * i], &half, 2);
  }
}

void time_angles(const PlanesKernels& set, int rounds, std::vector<Result>& results) {
  std::vector<std::int32_t> positions(2048);
  for (std::size_t i = 0; i < positions.size(); ++i) positions[i] = static_cast<std::int32_t>(i + 100000);
  std::vector<double> frequencies(32);
  for (std::size_t i = 0; i < 32; ++i) frequencies[i] = std::pow(10000.0, -static_cast<double>(i) / 32.0);
  std::vector<float> out(positions.size() * 64);
  std::vector<double> times;
  for (int i = 0; i < 10 * rounds; ++i) {
    times.push_back(seconds_of([&] { set.rope_angles(positions, frequencies, 1.0, out.data()); }));
  }
  results.push_back({set.name, "rope_angles 2048 x 32, milliseconds", median(times) * 1e3, 0});
  std::printf("%-8s %-34s %8.3f ms\n", set.name, "rope_angles 2048 x 32", median(times) * 1e3);
}

void time_set(const PlanesKernels& set, int rounds, std::span<std::byte> output, std::vector<std::byte>& other,
              std::vector<Result>& results) {
  const auto report = [&](const std::string& what, double ratio, double seconds) {
    results.push_back({set.name, what, ratio, kOutputBytes / seconds * 1e-9});
    std::printf("%-8s %-34s %8.3f %8.2f GB/s\n", set.name, what.c_str(), ratio, results.back().gigabytes_per_second);
    std::fflush(stdout);
  };
  for (const Setting& setting : decode_settings()) {
    Chunk chunk(setting, output, other);
    double seconds = 0;
    const double ratio = ratio_to([&] { chunk.copy(); }, [&] { chunk.decode(set); }, rounds, seconds);
    report("decode " + setting.name, ratio, seconds);
  }
  for (const RopePairing pairing : {RopePairing::kInterleaved, RopePairing::kHalfSplit}) {
    for (const auto& [heads, dim] : {std::pair{3u, 64u}, std::pair{8u, 128u}}) {
      Chunk chunk({"", heads, dim, 4, true, pairing, DType::kF16}, output, other);
      double seconds = 0;
      const double ratio = ratio_to([&] { chunk.copy(); }, [&] { chunk.encode(set); }, rounds, seconds);
      report(std::string("encode full ") + (pairing == RopePairing::kHalfSplit ? "half_split " : "") +
                 std::to_string(heads) + "x" + std::to_string(dim) + " 4 bit",
             ratio, seconds);
    }
  }
  time_angles(set, rounds, results);
}

bool write_json(const char* path, const std::vector<Result>& results) {
  std::FILE* file = std::fopen(path, "w");
  if (file == nullptr) return false;
  std::fputs("{\"rows\": [", file);
  for (const Result& result : results) {
    std::fprintf(file, "%s\n  {\"target\": \"%s\", \"what\": \"%s\", \"%s\": %.4f}", &result == results.data() ? "" : ",",
                 result.target.c_str(), result.what.c_str(),
                 result.gigabytes_per_second > 0 ? "ratio_to_memcpy" : "milliseconds", result.ratio);
  }
  std::fputs("\n]}\n", file);
  return std::fclose(file) == 0;
}

}  // namespace

int main(int argc, char** argv) {
  const char* json = nullptr;
  int rounds = 7;
  std::string only;
  for (int i = 1; i + 1 < argc; i += 2) {
    if (std::strcmp(argv[i], "--json") == 0) json = argv[i + 1];
    if (std::strcmp(argv[i], "--rounds") == 0) rounds = std::max(1, std::atoi(argv[i + 1]));
    if (std::strcmp(argv[i], "--target") == 0) only = argv[i + 1];
  }
  std::vector<std::byte> buffer(kOutputBytes + 64, std::byte{1});  // pre-faulted
  const std::size_t skip = 64 - reinterpret_cast<std::uintptr_t>(buffer.data()) % 64;
  const std::span<std::byte> output(buffer.data() + skip, kOutputBytes);
  std::vector<std::byte> other(kOutputBytes);
  fill_values(other);
  std::vector<Result> results;
  std::printf("%-8s %-34s %8s\n", "target", "what", "x memcpy");
  for (const PlanesKernels* set : kernel::planes_targets()) {
    if (set == &kernel::planes_scalar() ? only != "scalar" : !only.empty() && only != set->name) continue;
    time_set(*set, rounds, output, other, results);
  }
  if (json != nullptr && !write_json(json, results)) {
    std::fprintf(stderr, "planes_bench: cannot write %s\n", json);
    return 3;
  }
  return 0;
}
