// Makes a large valid card whose values are all zero, in a file with holes: for timing inspect.
//   sparse_card FILE GIGABYTES

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <unistd.h>

#include "cachecard/writer.hpp"

using namespace cachecard;

namespace {

constexpr std::uint32_t kLayers = 64;
constexpr std::uint32_t kHeads = 8;
constexpr std::uint32_t kHeadDim = 128;

/// Leaves holes where whole pieces are zero.
class SparseSink final : public ByteSink {
 public:
  explicit SparseSink(int fd) : fd_(fd) {}
  Status write(std::span<const std::byte> bytes) override {
    const bool zero = std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == std::byte{0}; });
    if (!zero && ::pwrite(fd_, bytes.data(), bytes.size(), offset_) != static_cast<ssize_t>(bytes.size())) {
      return Error{ErrorCode::kIo, kNoOffset, {}, "write failed"};
    }
    offset_ += static_cast<off_t>(bytes.size());
    return {};
  }
  Status commit() override {
    if (::ftruncate(fd_, offset_) == 0) return {};
    return Error{ErrorCode::kIo, kNoOffset, {}, "truncate failed"};
  }

 private:
  int fd_;
  off_t offset_ = 0;
};

class ZeroSource final : public CacheSource {
 public:
  explicit ZeroSource(std::uint64_t token_count) : numbers_(token_count) {
    for (std::uint64_t i = 0; i < token_count; ++i) numbers_[i] = static_cast<std::int32_t>(i);
    header_.token_count = token_count;
    header_.next_position = static_cast<std::int64_t>(token_count);
    header_.layer_count = kLayers;
    header_.segments.push_back({0, token_count, 0, {}});
    for (std::uint32_t layer = 0; layer < kLayers; ++layer) {
      for (StreamKind kind : {StreamKind::kKey, StreamKind::kValue}) {
        StreamRecord stream;
        stream.layer = layer;
        stream.stream = static_cast<std::uint8_t>(kind);
        stream.dtype = static_cast<std::uint8_t>(DType::kF16);
        stream.kv_head_count = kHeads;
        stream.head_dim = kHeadDim;
        stream.token_count = token_count;
        header_.streams.push_back(stream);
      }
    }
  }
  const CardHeader& header() const override { return header_; }
  std::span<const std::int32_t> token_ids() const override { return numbers_; }
  std::span<const std::int32_t> positions() const override { return numbers_; }
  Status read_rows(std::size_t, std::uint64_t, std::uint64_t, std::span<std::byte> out) const override {
    std::fill(out.begin(), out.end(), std::byte{0});
    return {};
  }

 private:
  CardHeader header_;
  std::vector<std::int32_t> numbers_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: sparse_card FILE GIGABYTES\n");
    return 2;
  }
  constexpr std::uint64_t kTokenBytes = std::uint64_t{kLayers} * 2 * kHeads * kHeadDim * 2;
  const std::uint64_t tokens = std::strtoull(argv[2], nullptr, 10) * 1000000000 / kTokenBytes;
  const int fd = ::open(argv[1], O_WRONLY | O_CREAT | O_TRUNC, 0644);
  if (fd < 0) return 3;
  SparseSink sink(fd);
  auto written = write_card(ZeroSource(tokens), sink);
  if (!written || !sink.commit()) {
    std::fprintf(stderr, "sparse_card: %s\n", written ? "truncate failed" : written.error().message().c_str());
    return 1;
  }
  std::printf("%llu tokens, %llu bytes\n", static_cast<unsigned long long>(tokens),
              static_cast<unsigned long long>(written->file_size));
  return 0;
}
