#include <atomic>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <numeric>
#include <thread>

#include "c_api_card.hpp"
#include "cachecard/reader.hpp"

using namespace c_api_card;

namespace {

std::size_t dtype_size(std::uint32_t dtype) { return dtype == CCD_DTYPE_F32 ? 4 : 2; }

/// A target over memory of its own, dense: [token][head][channel].
struct Dense {
  std::vector<unsigned char> memory;
  ccd_target target = sized<ccd_target>();

  explicit Dense(std::uint32_t dtype = CCD_DTYPE_F32, std::uint64_t tokens = kTokens)
      : memory(tokens * kHeads * kHeadDim * dtype_size(dtype), 0xEE) {
    const auto size = static_cast<std::int64_t>(dtype_size(dtype));
    target.dtype = dtype;
    target.base = memory.data();
    target.channel_stride = size;
    target.head_stride = size * kHeadDim;
    target.token_stride = size * kHeadDim * kHeads;
  }
};

ccd_status decode_all(const ccd_card* card, const StreamShape& shape, const ccd_target& target,
                      ccd_error* error = nullptr) {
  return ccd_card_decode(card, shape.layer, shape.kind, 0, kTokens, &target, error);
}

/// What CardReader::decode puts into memory of the same shape.
std::vector<unsigned char> reference(const std::string& data, std::size_t stream, const Dense& like,
                                     std::uint64_t first, std::uint64_t count, bool keep_rotation) {
  std::vector<unsigned char> memory(like.memory.size(), 0xEE);
  const cachecard::MemorySource source(std::as_bytes(std::span(data)));
  auto reader = cachecard::CardReader::open(source);
  REQUIRE(reader);
  const ccd_target& t = like.target;
  const auto offset = static_cast<unsigned char*>(t.base) - like.memory.data();
  const cachecard::DecodeTarget target{memory.data() + offset, static_cast<cachecard::DType>(t.dtype),
                                       t.token_stride,         t.head_stride,
                                       t.channel_stride,       nullptr};
  REQUIRE(reader->decode({stream, first, count, keep_rotation}, target));
  return memory;
}

/// Counts, and fails from the n-th call on.
struct CountingAllocator {
  std::atomic<int> live{0};
  std::atomic<int> calls{0};
  int fail_from = 1 << 30;

  static void* allocate(void* user, std::size_t size, std::size_t alignment) {
    auto& self = *static_cast<CountingAllocator*>(user);
    if (++self.calls > self.fail_from) return nullptr;
    ++self.live;
    return std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
  }
  static void release(void* user, void* pointer, std::size_t size) {
    auto& self = *static_cast<CountingAllocator*>(user);
    self.live -= size > 0 ? 1 : 0;
    std::free(pointer);
  }
  ccd_allocator callbacks() { return {allocate, release, this}; }
};

/// Two threads, as a runtime's pool would; skip leaves tasks out.
struct TwoThreads {
  int skip = 0;
  std::atomic<int> calls{0};

  static void run(void* user, std::size_t count, void (*task)(void*, std::size_t), void* context) {
    auto& self = *static_cast<TwoThreads*>(user);
    ++self.calls;
    const std::size_t end = count - static_cast<std::size_t>(self.skip);
    std::thread odd([&] {
      for (std::size_t i = 1; i < end; i += 2) task(context, i);
    });
    for (std::size_t i = 0; i < end; i += 2) task(context, i);
    odd.join();
  }
  ccd_parallel callbacks() { return {run, this, 2}; }
};

}  // namespace

TEST_CASE("decode gives the bits of CardReader::decode, for every type", "[c_api]") {
  const std::uint32_t compressor =
      GENERATE(as<std::uint32_t>(), CCD_COMPRESSOR_NONE, CCD_COMPRESSOR_SPLIT_ZSTD);
  const Card card(bytes(compressor));
  for (std::size_t stream = 0; stream < std::size(kShapes); ++stream) {
    for (std::uint32_t dtype : {CCD_DTYPE_F32, CCD_DTYPE_F16, CCD_DTYPE_BF16}) {
      for (std::uint32_t flags : {0, int{CCD_TARGET_KEEP_ROTATION}}) {
        CAPTURE(stream, dtype, flags);
        Dense out(dtype);
        out.target.flags = flags;
        REQUIRE(decode_all(card.handle, kShapes[stream], out.target) == CCD_OK);
        CHECK((out.memory == reference(card.data, stream, out, 0, kTokens, flags != 0)));
      }
    }
  }
}

TEST_CASE("decode follows strides and spans", "[c_api]") {
  const Card card(bytes());
  const auto size = GENERATE(as<std::uint64_t>(), 1, 63, 64, 65, 200);
  const auto first = GENERATE(as<std::uint64_t>(), 0, 1, 63, 64, 100);
  for (std::size_t stream = 0; stream < std::size(kShapes); ++stream) {
    Dense out(CCD_DTYPE_F32, size);  // transposed: [head][channel][token], tokens backwards
    const auto row = static_cast<std::int64_t>(size * 4);
    out.target.channel_stride = row;
    out.target.head_stride = row * kHeadDim;
    out.target.token_stride = -4;
    out.target.base = out.memory.data() + row - 4;
    const auto& shape = kShapes[stream];
    REQUIRE(ccd_card_decode(card.handle, shape.layer, shape.kind, first, size, &out.target, nullptr) ==
            CCD_OK);
    CHECK((out.memory == reference(card.data, stream, out, first, size, false)));
  }
}

TEST_CASE("decode fills the pages of a block table", "[c_api]") {
  const Card card(bytes());
  constexpr std::uint64_t kPage = 7;  // no divisor of a chunk
  constexpr std::uint64_t kPages = (kTokens + kPage - 1) / kPage;
  Dense dense;
  REQUIRE(decode_all(card.handle, kShapes[1], dense.target) == CCD_OK);
  const std::size_t row = static_cast<std::size_t>(dense.target.token_stride);
  std::vector<unsigned char> memory(kPages * kPage * row, 0xEE);
  std::vector<void*> pages;
  for (std::uint64_t i = 0; i < kPages; ++i) pages.push_back(memory.data() + (i * 5 % kPages) * kPage * row);
  ccd_target target = dense.target;
  target.base = nullptr;
  target.page_size = kPage;
  target.pages = pages.data();
  target.page_count = kPages;
  REQUIRE(decode_all(card.handle, kShapes[1], target) == CCD_OK);
  for (std::uint64_t t = 0; t < kTokens; ++t) {
    const auto* at = static_cast<unsigned char*>(pages[t / kPage]) + t % kPage * row;
    REQUIRE(std::memcmp(at, dense.memory.data() + t * row, row) == 0);
  }
  target.page_count = kPages - 1;
  CHECK(decode_all(card.handle, kShapes[1], target) == CCD_BUFFER_TOO_SMALL);
  target.page_count = kPages;
  pages[3] = nullptr;
  CHECK(decode_all(card.handle, kShapes[1], target) == CCD_INVALID_ARGUMENT);
  target.pages = nullptr;
  CHECK(decode_all(card.handle, kShapes[1], target) == CCD_INVALID_ARGUMENT);
}

TEST_CASE("decode refuses what cannot be", "[c_api]") {
  const Card card(bytes());
  Dense out;
  const auto decode = [&](std::uint32_t layer, std::uint32_t kind, std::uint64_t first, std::uint64_t count) {
    return ccd_card_decode(card.handle, layer, kind, first, count, &out.target, nullptr);
  };
  CHECK(decode(0, CCD_STREAM_KEY, kTokens, 0) == CCD_OK);
  CHECK(decode(0, CCD_STREAM_KEY, kTokens, 1) == CCD_INVALID_ARGUMENT);
  CHECK(decode(0, CCD_STREAM_KEY, 0, kTokens + 1) == CCD_INVALID_ARGUMENT);
  CHECK(decode(0, CCD_STREAM_KEY, 1, UINT64_MAX) == CCD_INVALID_ARGUMENT);
  CHECK(decode(9, CCD_STREAM_KEY, 0, 1) == CCD_INVALID_ARGUMENT);
  CHECK(decode(0, CCD_STREAM_LATENT, 0, 1) == CCD_INVALID_ARGUMENT);
  CHECK(decode(2, CCD_STREAM_OPAQUE, 0, 0) == CCD_INVALID_ARGUMENT);
  CHECK(ccd_card_decode(nullptr, 0, 0, 0, 1, &out.target, nullptr) == CCD_INVALID_ARGUMENT);
  CHECK(ccd_card_decode(card.handle, 0, 0, 0, 1, nullptr, nullptr) == CCD_INVALID_ARGUMENT);
  const auto with = [&](auto&& change) {
    ccd_target target = out.target;
    change(target);
    return decode_all(card.handle, kShapes[0], target);
  };
  CHECK(with([](ccd_target& t) { t.dtype = CCD_DTYPE_Q8_0; }) == CCD_INVALID_ARGUMENT);
  CHECK(with([](ccd_target& t) { t.flags = 4; }) == CCD_INVALID_ARGUMENT);
  CHECK(with([](ccd_target& t) { t.base = nullptr; }) == CCD_INVALID_ARGUMENT);
  CHECK(with([](ccd_target& t) { t.struct_size = 8; }) == CCD_INVALID_ARGUMENT);
}

TEST_CASE("decode puts RoPE pairs in the order asked for", "[c_api]") {
  std::string data;
  {
    ccd_writer* writer = described_writer();
    auto table = sized<ccd_rope_table>();
    table.layer = CCD_ALL_LAYERS;
    table.pairing = CCD_PAIRING_HALF_SPLIT;
    table.rotated_offset = 8;
    table.pair_count = 20;
    table.magnitude = 1.0;
    const std::vector<double> frequencies(20, 0.01);
    REQUIRE(ccd_writer_set_rope_table(writer, &table, frequencies.data(), nullptr) == CCD_OK);
    auto output = sized<ccd_output>();
    output.write = append;
    output.user = &data;
    const auto from = values();
    const auto options = write_options();
    REQUIRE(ccd_writer_write_to(writer, &output, &from, &options, nullptr, nullptr) == CCD_OK);
    ccd_writer_destroy(writer);
  }
  const Card card(data);
  for (const std::uint32_t dtype : {CCD_DTYPE_F16, CCD_DTYPE_F32}) {
    Dense stored(dtype);
    Dense wanted(dtype);
    wanted.target.rope_pairing = CCD_PAIRING_INTERLEAVED;
    REQUIRE(decode_all(card.handle, kShapes[0], stored.target) == CCD_OK);
    REQUIRE(decode_all(card.handle, kShapes[0], wanted.target) == CCD_OK);
    const std::size_t size = dtype == CCD_DTYPE_F16 ? 2 : 4;
    const auto same = [&](std::uint64_t token, std::size_t channel, std::size_t from) {
      const std::size_t row = token * kHeads * kHeadDim;
      return std::memcmp(wanted.memory.data() + (row + channel) * size, stored.memory.data() + (row + from) * size, size) == 0;
    };
    for (std::uint64_t t = 0; t < kTokens; t += 13) {
      bool all = true;
      for (std::size_t c = 0; c < kHeadDim; ++c) {
        const bool rotated = c >= 8 && c < 48;
        all = all && same(t, c, rotated ? 8 + (c - 8) / 2 + (c % 2) * 20 : c);
      }
      CHECK(all);
    }
    wanted.target.rope_pairing = 3;
    CHECK(decode_all(card.handle, kShapes[0], wanted.target) == CCD_INVALID_ARGUMENT);
    wanted.target.struct_size = offsetof(ccd_target, rope_pairing);  // a caller of before
    CHECK(decode_all(card.handle, kShapes[0], wanted.target) == CCD_OK);
    CHECK(wanted.memory == stored.memory);
  }
  const Card unknown(bytes());
  Dense out;
  out.target.rope_pairing = CCD_PAIRING_INTERLEAVED;
  CHECK(decode_all(unknown.handle, kShapes[0], out.target) == CCD_IDENTITY_UNKNOWN);
  CHECK(decode_all(unknown.handle, kShapes[1], out.target) == CCD_OK);  // values have no pairs
}

TEST_CASE("decode finds a damaged chunk where it lies", "[c_api]") {
  std::string data = bytes();
  data[first_chunk(data)] ^= 1;
  const Card card(data);
  Dense out;
  ccd_error error;
  CHECK(decode_all(card.handle, kShapes[0], out.target, &error) == CCD_CHECKSUM_MISMATCH);
  CHECK(error.offset < data.size());
  CHECK(ccd_card_decode(card.handle, 0, CCD_STREAM_KEY, kChunkTokens, 5, &out.target, nullptr) == CCD_OK);
  CHECK(ccd_card_check_other_sections(card.handle, kTokens, nullptr) == CCD_OK);
  CHECK(ccd_card_check_other_sections(card.handle, 0, nullptr) == CCD_CHECKSUM_MISMATCH);
  CHECK(ccd_card_check_other_sections(nullptr, 0, nullptr) == CCD_INVALID_ARGUMENT);
}

TEST_CASE("scratch comes from the caller's allocator and goes back", "[c_api]") {
  CountingAllocator allocator;
  auto options = sized<ccd_open_options>();
  options.allocator = allocator.callbacks();
  const Card card(bytes(CCD_COMPRESSOR_ZSTD), &options);
  REQUIRE(card.handle != nullptr);
  Dense out;
  CHECK(decode_all(card.handle, kShapes[1], out.target) == CCD_OK);
  CHECK(allocator.calls == 5);  // one a chunk: 4 of 64 tokens and one of 44
  CHECK(allocator.live == 0);
  for (int n = 0; n < 5; ++n) {
    allocator.calls = 0;
    allocator.fail_from = n;
    ccd_error error;
    CHECK(decode_all(card.handle, kShapes[1], out.target, &error) == CCD_OUT_OF_MEMORY);
    CHECK(error.code == CCD_OUT_OF_MEMORY);
    CHECK(allocator.live == 0);
  }
  allocator.calls = 0;
  allocator.fail_from = 0;
  CHECK(ccd_card_read_rows(card.handle, 0, 0, 0, 1, out.memory.data(), 256, nullptr) == CCD_OUT_OF_MEMORY);
}

TEST_CASE("work goes to the caller's threads, and all of it must come back", "[c_api]") {
  TwoThreads threads;
  CountingAllocator allocator;
  auto options = sized<ccd_open_options>();
  options.parallel = threads.callbacks();
  options.allocator = allocator.callbacks();
  const Card card(bytes(), &options);
  Dense out;
  REQUIRE(decode_all(card.handle, kShapes[1], out.target) == CCD_OK);
  CHECK(threads.calls == 1);
  CHECK((out.memory == reference(card.data, 1, out, 0, kTokens, false)));
  allocator.fail_from = 0;
  CHECK(decode_all(card.handle, kShapes[1], out.target) == CCD_OUT_OF_MEMORY);
  allocator.fail_from = 1 << 30;
  threads.skip = 1;
  ccd_error error;
  CHECK(decode_all(card.handle, kShapes[1], out.target, &error) == CCD_INVALID_ARGUMENT);
  CHECK(std::string(error.message).find("left 1 tasks undone") != std::string::npos);
}

TEST_CASE("two threads decode one card at once", "[c_api]") {
  const Card card(bytes(CCD_COMPRESSOR_SPLIT_ZSTD));
  Dense keys;
  Dense values;
  std::atomic<int> failures{0};
  const auto work = [&](Dense& out, const StreamShape& shape) {
    for (int i = 0; i < 20; ++i) failures += decode_all(card.handle, shape, out.target) == CCD_OK ? 0 : 1;
  };
  std::thread other([&] { work(values, kShapes[1]); });
  work(keys, kShapes[0]);
  other.join();
  CHECK(failures == 0);
  CHECK((keys.memory == reference(card.data, 0, keys, 0, kTokens, false)));
  CHECK((values.memory == reference(card.data, 1, values, 0, kTokens, false)));
}

TEST_CASE("read_rows gives the source's bytes", "[c_api]") {
  const Card card(bytes(CCD_COMPRESSOR_ZSTD));
  for (const StreamShape& shape : kShapes) {
    auto s = sized<ccd_stream>();
    REQUIRE(ccd_card_find_stream(card.handle, shape.layer, shape.kind, &s, nullptr) == CCD_OK);
    std::vector<char> expected(100 * s.row_size);
    read_rows(nullptr, shape.layer, shape.kind, 50, 100, expected.data(), expected.size());
    std::vector<char> out(expected.size() + 1, 'z');
    REQUIRE(ccd_card_read_rows(card.handle, shape.layer, shape.kind, 50, 100, out.data(), out.size(),
                               nullptr) == CCD_OK);
    CHECK(out.back() == 'z');
    out.pop_back();
    CHECK((out == expected));
  }
  char small[10];
  CHECK(ccd_card_read_rows(card.handle, 0, 0, 0, 1, small, sizeof(small), nullptr) == CCD_BUFFER_TOO_SMALL);
  CHECK(ccd_card_read_rows(card.handle, 0, 0, 0, 1, nullptr, 1000, nullptr) == CCD_INVALID_ARGUMENT);
  CHECK(ccd_card_read_rows(card.handle, 0, 0, 5, 0, nullptr, 0, nullptr) == CCD_OK);
  CHECK(ccd_card_read_rows(nullptr, 0, 0, 0, 1, small, 10, nullptr) == CCD_INVALID_ARGUMENT);
  CHECK(ccd_card_read_rows(card.handle, 2, CCD_STREAM_OPAQUE, 0, 0, small, 10, nullptr) ==
        CCD_INVALID_ARGUMENT);
}

TEST_CASE("opaque bytes come back", "[c_api]") {
  const Card card(bytes());
  char expected[100];
  char out[100] = {};
  read_opaque(nullptr, 2, 600, expected, sizeof(expected));
  REQUIRE(ccd_card_read_opaque(card.handle, 2, 600, out, sizeof(out), nullptr) == CCD_OK);
  CHECK(std::equal(out, out + 100, expected));
  CHECK(ccd_card_read_opaque(card.handle, 2, kOpaqueSize - 5, out, 6, nullptr) == CCD_INVALID_ARGUMENT);
  CHECK(ccd_card_read_opaque(card.handle, 1, 0, out, 6, nullptr) == CCD_INVALID_ARGUMENT);
  CHECK(ccd_card_read_opaque(card.handle, 2, 0, nullptr, 6, nullptr) == CCD_INVALID_ARGUMENT);
  CHECK(ccd_card_read_opaque(nullptr, 2, 0, out, 6, nullptr) == CCD_INVALID_ARGUMENT);
}

TEST_CASE("token ids and positions fill the caller's arrays", "[c_api]") {
  const Card card(bytes());
  std::vector<std::int32_t> out(kTokens + 1, -7);
  std::size_t count = 0;
  CHECK((ccd_card_get_token_ids(card.handle, nullptr, 0, &count, nullptr) == CCD_OK && count == kTokens));
  REQUIRE(ccd_card_get_token_ids(card.handle, out.data(), kTokens, nullptr, nullptr) == CCD_OK);
  CHECK((out[0] == 0 && out[17] == 17 * 17 && out[kTokens - 1] == 299 * 299 && out[kTokens] == -7));
  count = 0;
  CHECK((ccd_card_get_positions(card.handle, nullptr, 0, &count, nullptr) == CCD_OK && count == kTokens));
  REQUIRE(ccd_card_get_positions(card.handle, out.data(), out.size(), &count, nullptr) == CCD_OK);
  CHECK((count == kTokens && out[0] == 0 && out[299] == 299 && out[kTokens] == -7));

  for (auto* get : {ccd_card_get_token_ids, ccd_card_get_positions}) {
    out[0] = -1;
    count = 0;
    CHECK(get(card.handle, out.data(), kTokens - 1, &count, nullptr) == CCD_BUFFER_TOO_SMALL);
    CHECK((count == kTokens && out[0] == -1));
    CHECK(get(card.handle, nullptr, 5, nullptr, nullptr) == CCD_INVALID_ARGUMENT);
    CHECK(get(nullptr, out.data(), kTokens, nullptr, nullptr) == CCD_INVALID_ARGUMENT);
  }
}

TEST_CASE("a card without token ids says so", "[c_api]") {
  const Card card(bytes(CCD_COMPRESSOR_NONE, false));
  auto facts = sized<ccd_facts>();
  REQUIRE(ccd_card_get_facts(card.handle, &facts, nullptr) == CCD_OK);
  CHECK(facts.flags == CCD_CARD_TOKENS_UNKNOWN);
  std::int32_t out[kTokens];
  CHECK(ccd_card_get_token_ids(card.handle, nullptr, 0, nullptr, nullptr) == CCD_TOKENS_UNKNOWN);
  CHECK(ccd_card_get_token_ids(card.handle, out, kTokens, nullptr, nullptr) == CCD_TOKENS_UNKNOWN);
  CHECK(ccd_card_get_positions(card.handle, out, kTokens, nullptr, nullptr) == CCD_OK);
}

TEST_CASE("bit widths are half bits of the type", "[c_api]") {
  const Card card(bytes());
  std::uint16_t out[4] = {1, 1, 1, 1};
  REQUIRE(ccd_card_get_bit_widths(card.handle, 0, CCD_STREAM_VALUE, 1, 297, 3, out, nullptr) == CCD_OK);
  CHECK((out[0] == 17 && out[2] == 17 && out[3] == 1));
  REQUIRE(ccd_card_get_bit_widths(card.handle, 1, CCD_STREAM_VALUE, 0, 0, 1, out, nullptr) == CCD_OK);
  CHECK(out[0] == 64);
  CHECK(ccd_card_get_bit_widths(card.handle, 0, 0, kHeads, 0, 1, out, nullptr) == CCD_INVALID_ARGUMENT);
  CHECK(ccd_card_get_bit_widths(card.handle, 0, 0, 0, 298, 3, out, nullptr) == CCD_INVALID_ARGUMENT);
  CHECK(ccd_card_get_bit_widths(card.handle, 0, 0, 0, 0, 1, nullptr, nullptr) == CCD_INVALID_ARGUMENT);
  CHECK(ccd_card_get_bit_widths(nullptr, 0, 0, 0, 0, 1, out, nullptr) == CCD_INVALID_ARGUMENT);
}
