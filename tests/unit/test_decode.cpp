#include <catch2/catch.hpp>
#include <cstring>
#include <thread>

#include "kernel/floats.hpp"
#include "plan_source.hpp"
#include "reference_decode.hpp"

using namespace cachecard;
using namespace cachecard::tests;

namespace {

struct OpenCard {
  std::vector<std::byte> bytes;
  std::unique_ptr<MemorySource> source;
  std::optional<CardReader> card;
};

OpenCard open_plan(const fixtures::CardPlan& plan) {
  OpenCard open;
  open.bytes = fixtures::build(plan).value();
  open.source = std::make_unique<MemorySource>(open.bytes);
  open.card = CardReader::open(*open.source).value();
  return open;
}

std::vector<float> expected_values(const fixtures::CardPlan& plan, std::size_t stream) {
  return fixtures::reference_decode(plan.header.streams[stream], plan.stream_bytes[stream]);
}

std::uint16_t to_16(DType dtype, float value) {
  return dtype == DType::kF16 ? kernel::f16_from_f32(value) : kernel::bf16_from_f32(value);
}

constexpr std::array kTypes{DType::kF32, DType::kF16, DType::kBf16, DType::kQ8_0, DType::kQ4_1};

}  // namespace

TEST_CASE("every span of tokens decodes to the same values as the whole", "[unit]") {
  for (DType dtype : kTypes) {
    const auto plan = two_segment_plan(dtype, 32);
    const OpenCard open = open_plan(plan);
    const auto whole = expected_values(plan, 1);
    REQUIRE(decode_all(*open.card, 1) == whole);
    for (std::uint64_t first = 0; first < 23; ++first) {
      for (std::uint64_t count = 0; first + count <= 23; ++count) {
        std::vector<float> part(count * 64);
        const DecodeTarget target{part.data(), DType::kF32, 256, 128, 4, nullptr};
        REQUIRE(open.card->decode({1, first, count, false}, target));
        REQUIRE(
            std::equal(part.begin(), part.end(), whole.begin() + static_cast<std::ptrdiff_t>(first * 64)));
      }
    }
  }
}

TEST_CASE("rows come back as the source stored them, for every span and compressor", "[unit]") {
  for (Compressor compressor : {Compressor::kNone, Compressor::kZstd, Compressor::kSplitZstd}) {
    auto plan = two_segment_plan(DType::kF32);
    fixtures::Random random("coarse");
    for (auto& bytes : plan.stream_bytes) {
      bytes = fixtures::random_values(random, DType::kF32, bytes.size() / 4, fixtures::ValueKind::kCoarse);
    }
    plan.compressor = compressor;
    const OpenCard open = open_plan(plan);
    std::vector<std::byte> scratch(open.card->scratch_bytes(0));
    for (std::uint64_t first = 0; first < 23; first += 2) {
      for (std::uint64_t count = 0; first + count <= 23; ++count) {
        std::vector<std::byte> rows(count * 256);
        REQUIRE(open.card->read_rows(0, first, count, rows, scratch));
        REQUIRE(std::equal(rows.begin(), rows.end(),
                           plan.stream_bytes[0].begin() + static_cast<std::ptrdiff_t>(first * 256)));
      }
    }
  }
}

TEST_CASE("keep_rotation leaves values as they were stored", "[unit]") {
  const auto plan = two_segment_plan(DType::kQ8_0, 32);
  const OpenCard open = open_plan(plan);
  auto plain = plan.header.streams[0];
  plain.hadamard_size = 1;
  std::vector<float> values(23 * 64);
  REQUIRE(open.card->decode({0, 0, 23, true}, {values.data(), DType::kF32, 256, 128, 4, nullptr}));
  CHECK(values == fixtures::reference_decode(plain, plan.stream_bytes[0]));
}

TEST_CASE("strided targets get every value at its place and nothing between", "[unit]") {
  for (DType stored : kTypes) {
    const auto plan = two_segment_plan(stored);
    const OpenCard open = open_plan(plan);
    const auto expected = expected_values(plan, 3);
    for (DType dtype : {DType::kF32, DType::kF16, DType::kBf16}) {
      // [head][channel][token], as llama.cpp keeps V: every stride another one, gaps of one element.
      const std::int64_t size = dtype_info(dtype)->block_bytes;
      const std::int64_t channel = 24 * size;
      const std::int64_t head = 33 * channel;
      std::vector<std::byte> out(static_cast<std::size_t>(2 * head), std::byte{0xEE});
      REQUIRE(open.card->decode({3, 0, 23, false}, {out.data(), dtype, size, head, channel, nullptr}));
      std::vector<std::byte> wanted(out.size(), std::byte{0xEE});
      for (std::size_t t = 0; t < 23; ++t) {
        for (std::size_t i = 0; i < 64; ++i) {
          const float value = expected[t * 64 + i];
          auto* at = wanted.data() + static_cast<std::int64_t>(t) * size +
                     static_cast<std::int64_t>(i / 32) * head + static_cast<std::int64_t>(i % 32) * channel;
          const std::uint16_t half = to_16(dtype, value);
          std::memcpy(at, dtype == DType::kF32 ? static_cast<const void*>(&value) : &half,
                      static_cast<std::size_t>(size));
        }
      }
      INFO(name_of(stored) << " to " << name_of(dtype));
      CHECK(out == wanted);
    }
  }
}

TEST_CASE("paged targets get token t of the request in page t / page_size", "[unit]") {
  const auto plan = two_segment_plan(DType::kQ5_0, 16);
  const OpenCard open = open_plan(plan);
  const auto expected = expected_values(plan, 2);
  for (std::uint64_t page_size : {1u, 4u, 16u, 64u}) {
    const std::uint64_t first = 3;
    const std::uint64_t count = 17;
    std::vector<std::vector<float>> pages((count + page_size - 1) / page_size,
                                          std::vector<float>(page_size * 64, -1.0f));
    std::vector<void*> bases;
    for (auto& page : pages) bases.insert(bases.begin(), page.data());  // in any order
    const BlockTable blocks{page_size, bases};
    REQUIRE(open.card->decode({2, first, count, false}, {nullptr, DType::kF32, 256, 128, 4, &blocks}));
    for (std::uint64_t t = 0; t < count; ++t) {
      const auto* row = static_cast<const float*>(bases[t / page_size]) + t % page_size * 64;
      CHECK(std::equal(row, row + 64, expected.begin() + static_cast<std::ptrdiff_t>((first + t) * 64)));
    }
  }
}

TEST_CASE("f16 and bf16 are copied bit for bit into their own type, NaN payloads included", "[unit]") {
  auto plan = two_segment_plan(DType::kF16);
  for (std::size_t i = 0; i < plan.stream_bytes[0].size(); i += 2)
    plan.stream_bytes[0][i + 1] = std::byte{0x7D};
  const OpenCard open = open_plan(plan);
  std::vector<std::byte> out(plan.stream_bytes[0].size());
  REQUIRE(open.card->decode({0, 0, 23, false}, {out.data(), DType::kF16, 128, 64, 2, nullptr}));
  CHECK(out == plan.stream_bytes[0]);
}

TEST_CASE("sliding-window streams answer only for their own span", "[unit]") {
  fixtures::CardPlan plan = fixtures::make_plan("window", "", 30, "", "");
  fixtures::add_stream(plan, 0, StreamKind::kKey, DType::kF32, {.head_dim = 2});
  fixtures::limit_span(plan, 10, 15);
  const OpenCard open = open_plan(plan);
  std::vector<float> out(60);
  const DecodeTarget target{out.data(), DType::kF32, 8, 8, 4, nullptr};
  CHECK(open.card->decode({0, 10, 15, false}, target));
  CHECK(open.card->decode({0, 24, 1, false}, target));
  for (const auto& [first, count] : {std::pair{9u, 2u}, {0u, 30u}, {24u, 2u}, {25u, 1u}, {0u, 0u}}) {
    const Status status = open.card->decode({0, first, count, false}, target);
    REQUIRE_FALSE(status);
    CHECK(status.error().code == ErrorCode::kInvalidArgument);
  }
}

TEST_CASE("requests and targets that cannot be are refused before anything is written", "[unit]") {
  const OpenCard open = open_plan(two_segment_plan(DType::kF16));
  std::vector<float> out(23 * 64);
  const DecodeTarget good{out.data(), DType::kF32, 256, 128, 4, nullptr};
  const auto code = [&](DecodeRequest request, DecodeTarget target) {
    const Status status = open.card->decode(request, target);
    return status ? ErrorCode::kOk : status.error().code;
  };
  CHECK(code({0, 0, 23, false}, good) == ErrorCode::kOk);
  CHECK(code({4, 0, 1, false}, good) == ErrorCode::kInvalidArgument);
  CHECK(code({0, 0, 24, false}, good) == ErrorCode::kInvalidArgument);
  CHECK(code({0, ~0ull, 2, false}, good) == ErrorCode::kInvalidArgument);
  CHECK(code({0, 1, ~0ull, false}, good) == ErrorCode::kInvalidArgument);
  CHECK(code({0, 0, 1, false}, {out.data(), DType::kQ8_0, 256, 128, 4, nullptr}) ==
        ErrorCode::kInvalidArgument);
  CHECK(code({0, 0, 1, false}, {nullptr, DType::kF32, 256, 128, 4, nullptr}) == ErrorCode::kInvalidArgument);
  const BlockTable none{0, {}};
  CHECK(code({0, 0, 1, false}, {nullptr, DType::kF32, 256, 128, 4, &none}) == ErrorCode::kBufferTooSmall);
  std::vector<std::byte> rows(127);
  std::vector<std::byte> scratch(open.card->scratch_bytes(0));
  CHECK(open.card->read_rows(0, 0, 1, rows, scratch).error().code == ErrorCode::kBufferTooSmall);
  rows.resize(128);
  CHECK(open.card->read_rows(0, 0, 1, rows, std::span(scratch).first(scratch.size() - 1)).error().code ==
        ErrorCode::kBufferTooSmall);
}

TEST_CASE("many threads read one card, each with its own result", "[unit]") {
  const auto plan = two_segment_plan(DType::kQ4_0, 32);
  const OpenCard open = open_plan(plan);
  std::vector<std::vector<float>> expected;
  for (std::size_t stream = 0; stream < 4; ++stream) expected.push_back(expected_values(plan, stream));
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < 8; ++i) {
    threads.emplace_back([&, i] {
      for (int round = 0; round < 50; ++round)
        wrong += decode_all(*open.card, i % 4) == expected[i % 4] ? 0 : 1;
    });
  }
  for (auto& thread : threads) thread.join();
  CHECK(wrong == 0);
}

TEST_CASE("decode over threads gives the same values, and the first error of any chunk", "[unit]") {
  const auto plan = two_segment_plan(DType::kQ8_0, 32);
  OpenCard open = open_plan(plan);
  TestThreads threads;
  std::vector<float> values(23 * 64);
  const DecodeTarget target{values.data(), DType::kF32, 256, 128, 4, nullptr};
  REQUIRE(open.card->decode({0, 0, 23, false}, target, threads.parallel()));
  CHECK(values == expected_values(plan, 0));
  const FrameHeader& frame = open.card->frames()[open.card->chunks(0)[2]];
  open.bytes[frame.offset + 128] ^= std::byte{1};
  const Status status = open.card->decode({0, 0, 23, false}, target, threads.parallel());
  REQUIRE_FALSE(status);
  CHECK(status.error().code == ErrorCode::kChecksumMismatch);
  CHECK(status.error().offset == frame.offset + 128);
  CHECK(open.card->decode({0, 0, 5, false}, target));  // other chunks are not touched
}
