#include <catch2/catch.hpp>

#include "codec/byte_compressor.hpp"
#include "fixture_values.hpp"

using namespace cachecard;

namespace {

std::vector<std::byte> sample(DType dtype, std::size_t count) {
  fixtures::Random random("compressor");
  return fixtures::random_values(random, dtype, count, fixtures::ValueKind::kCoarse);
}

std::vector<std::byte> undo(Compressor compressor, std::span<const std::byte> stored, std::size_t element,
                            std::size_t size) {
  std::vector<std::byte> out(size);
  std::vector<std::byte> scratch(decompress_scratch(compressor, size));
  const Status status = decompress(compressor, stored, element, out, scratch);
  return status ? out : std::vector<std::byte>();
}

}  // namespace

TEST_CASE("what is compressed comes back", "[unit]") {
  for (Compressor compressor : {Compressor::kZstd, Compressor::kSplitZstd}) {
    for (std::size_t element : {1u, 2u, 4u}) {
      for (std::size_t count : {64u, 1000u, 65536u}) {
        const auto bytes = sample(element == 4 ? DType::kF32 : DType::kF16, count);
        const auto stored = compress(compressor, bytes, element, 3);
        REQUIRE(stored);
        REQUIRE_FALSE(stored->empty());
        CHECK(stored->size() < bytes.size());
        CHECK(undo(compressor, *stored, element, bytes.size()) == bytes);
      }
    }
  }
}

TEST_CASE("what would not become smaller is given back as nothing", "[unit]") {
  fixtures::Random random("noise");
  const auto noise = fixtures::random_bytes(random, 1000);
  CHECK(compress(Compressor::kZstd, noise, 1, 3)->empty());
  CHECK(compress(Compressor::kSplitZstd, noise, 4, 3)->empty());
  CHECK(compress(Compressor::kZstd, {}, 1, 3)->empty());
}

TEST_CASE("byte split helps where high bytes repeat", "[unit]") {
  fixtures::Random random("smooth");
  const auto bytes = fixtures::random_values(random, DType::kF32, 4096, fixtures::ValueKind::kSmooth);
  const auto split = compress(Compressor::kSplitZstd, bytes, 4, 3);
  REQUIRE_FALSE(split->empty());
  CHECK(split->size() < bytes.size() * 95 / 100);
}

TEST_CASE("decompress fills its buffer exactly or fails", "[unit]") {
  const auto bytes = sample(DType::kF16, 500);
  const auto stored = compress(Compressor::kZstd, bytes, 2, 3);
  REQUIRE_FALSE(stored->empty());
  CHECK(undo(Compressor::kZstd, *stored, 2, bytes.size() - 1).empty());
  CHECK(undo(Compressor::kZstd, *stored, 2, bytes.size() + 1).empty());
  CHECK(undo(Compressor::kZstd, std::span(*stored).first(stored->size() - 1), 2, bytes.size()).empty());
  CHECK(undo(Compressor::kZstd, {}, 2, bytes.size()).empty());
  CHECK(undo(Compressor::kNone, bytes, 2, bytes.size()) == bytes);
  std::vector<std::byte> out(4);
  CHECK(decompress(static_cast<Compressor>(9), stored.value(), 1, out, {}).error().code ==
        ErrorCode::kUnsupportedCodec);
}
