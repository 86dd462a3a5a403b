#include <catch2/catch.hpp>
#include <cstring>
#include <random>

#include "cachecard/writer.hpp"
#include "pt_builder.hpp"
#include "torch/pt_source.hpp"
#include "torch/pt_writer.hpp"
#include "torch/rope_order.hpp"

using namespace cachecard;
using namespace cachecard::pytorch;
using namespace cachecard::pytorch::testing;

namespace {

using Bytes = std::vector<std::byte>;
constexpr unsigned kSeed = 20261124;

std::string noise(std::size_t size) {
  std::mt19937 random(kSeed + static_cast<unsigned>(size));
  std::string bytes(size, '\0');
  for (char& c : bytes) c = static_cast<char>(random() & 0x3F);  // finite as f32, f16 and bf16
  return bytes;
}

CacheFacts rope(RopePairing pairing) {
  CacheFacts facts;
  facts.rope_state = RopeState::kPostRope;
  facts.rope_pairing = pairing;
  facts.identity.set_u64(IdentityField::kRopeDimensionCount, 6);
  return facts;
}

Bytes card_of(const Bytes& pt, CacheFacts facts) {
  const MemorySource source(pt);
  auto cache = read_pt_cache(source);
  REQUIRE(cache);
  auto values = pt_source(source, std::move(*cache), std::move(facts));
  REQUIRE(values);
  MemorySink sink;
  CardOptions options;
  options.chunk_tokens = 2;
  REQUIRE(write_card(**values, sink, options));
  return sink.bytes();
}

Bytes pt_of_card(const Bytes& bytes, const PtWriteOptions& options = {}) {
  const MemorySource source(bytes);
  auto card = CardReader::open(source);
  REQUIRE(card);
  MemorySink sink;
  auto report = write_pt(*card, sink, options);
  REQUIRE(report);
  CHECK(report->file_size == sink.bytes().size());
  return sink.bytes();
}

/// Two layers: f16 [1, 2, 5, 8] with keys and values, then f32 keys and bf16 values [1, 1, 3, 6 and 4].
Bytes two_layers() {
  const std::vector<std::string> storages{noise(160), noise(161).substr(1), noise(72), noise(24)};
  return pt_of(dict({{"past_key_values", tuple({tuple({tensor("HalfStorage", "0", {1, 2, 5, 8}),
                                                       tensor("HalfStorage", "1", {1, 2, 5, 8})}),
                                                tuple({tensor("FloatStorage", "2", {1, 1, 3, 6}),
                                                       tensor("BFloat16Storage", "3", {1, 1, 3, 4})})})},
                     {"token_ids", numbers({9, 8, 7, 6, 5})},
                     {"window", numbers({0, 4})},
                     {"first_token", numbers({0, 2})}}),
               storages);
}

std::vector<std::string> storages_of(const Bytes& pt) {
  const MemorySource source(pt);
  auto cache = read_pt_cache(source);
  REQUIRE(cache);
  std::vector<std::string> all;
  for (std::size_t i = 0; i < cache->shapes.size(); ++i) {
    for (const PtTensor& tensor : {cache->keys[i], cache->values[i]}) {
      const std::size_t size = tensor.shape.extent(tensor.shape.token_count);
      all.emplace_back(reinterpret_cast<const char*>(pt.data()) + tensor.offset, size);
    }
  }
  return all;
}

}  // namespace

TEST_CASE("pt to card to pt keeps every bit, widths and windows by layer", "[converters]") {
  const Bytes pt = two_layers();
  const Bytes card = card_of(pt, rope(RopePairing::kHalfSplit));
  const Bytes back = pt_of_card(card);
  CHECK(storages_of(back) == storages_of(pt));
  const MemorySource source(back);
  auto cache = read_pt_cache(source);
  REQUIRE(cache);
  CHECK(cache->token_ids == std::vector<std::int32_t>{9, 8, 7, 6, 5});
  CHECK(cache->positions == std::vector<std::int32_t>{0, 1, 2, 3, 4});
  CHECK(cache->shapes[1].first_token == 2);
  CHECK(cache->shapes[1].window == 4);
  CHECK(cache->rope_pairing == RopePairing::kHalfSplit);
  CHECK(card_of(back, rope(RopePairing::kHalfSplit)) == card);
}

TEST_CASE("strided views give the rows that a contiguous tensor gives", "[converters]") {
  // The same values [1, 2, 5, 8] as [tokens][heads][channels], channel-major, and with gaps.
  const std::string plain = noise(160);
  const auto value = [&](std::size_t h, std::size_t t, std::size_t c) {
    return plain.substr(((h * 5 + t) * 8 + c) * 2, 2);
  };
  struct Order {
    std::int64_t head, token, channel, count, offset;
  };
  const Bytes expected = card_of(pt_of(tuple({tuple({tensor("HalfStorage", "0", {1, 2, 5, 8}),
                                                     tensor("HalfStorage", "1", {1, 2, 5, 8})})}),
                                       {plain, plain}),
                                 rope(RopePairing::kHalfSplit));
  for (const Order& order : {Order{8, 16, 1, 80, 0}, Order{40, 1, 5, 80, 0}, Order{1, 2, 10, 80, 0},
                             Order{100, 20, 2, 250, 7}, Order{2000, 300, 30, 4000, 3}}) {
    std::string storage(static_cast<std::size_t>(order.count) * 2, '?');
    for (std::size_t h = 0; h < 2; ++h) {
      for (std::size_t t = 0; t < 5; ++t) {
        for (std::size_t c = 0; c < 8; ++c) {
          const auto at = static_cast<std::size_t>(order.offset) + h * static_cast<std::size_t>(order.head) +
                          t * static_cast<std::size_t>(order.token) +
                          c * static_cast<std::size_t>(order.channel);
          storage.replace(at * 2, 2, value(h, t, c));
        }
      }
    }
    View view{.count = order.count,
              .offset = order.offset,
              .sizes = {1, 2, 5, 8},
              .strides = {0, order.head, order.token, order.channel}};
    const std::string key = tensor(view);
    view.key = "1";
    CHECK(card_of(pt_of(tuple({tuple({key, tensor(view)})}), {storage, storage}),
                  rope(RopePairing::kHalfSplit)) == expected);
  }
}

TEST_CASE("keys change their order of RoPE pairs, values never", "[converters]") {
  const Bytes pt = two_layers();
  const Bytes card = card_of(pt, rope(RopePairing::kInterleaved));
  PtWriteOptions options;
  options.decode.pairing = RopePairing::kHalfSplit;
  const Bytes back = pt_of_card(card, options);
  const auto before = storages_of(pt);
  const auto after = storages_of(back);
  CHECK(after[1] == before[1]);
  CHECK(after[3] == before[3]);
  // 6 of 8 channels rotate: 0 1 2 3 4 5 become 0 2 4 1 3 5.
  for (std::size_t row = 0; row < 10; ++row) {
    std::size_t to = 0;
    for (const std::size_t from : {0, 2, 4, 1, 3, 5, 6, 7}) {
      CHECK(after[0].substr((row * 8 + to++) * 2, 2) == before[0].substr((row * 8 + from) * 2, 2));
    }
  }
  CacheFacts facts = rope(RopePairing::kHalfSplit);
  PtWriteOptions undo;
  undo.decode.pairing = RopePairing::kInterleaved;
  CHECK(storages_of(pt_of_card(card_of(back, facts), undo)) == before);
}

TEST_CASE("an order is not changed where the rotated width is unknown", "[converters]") {
  CacheFacts facts = rope(RopePairing::kInterleaved);
  facts.identity = {};
  const Bytes bytes = card_of(two_layers(), facts);
  const MemorySource source(bytes);
  auto card = CardReader::open(source);
  REQUIRE(card);
  PtWriteOptions options;
  options.decode.pairing = RopePairing::kHalfSplit;
  MemorySink sink;
  auto report = write_pt(*card, sink, options);
  REQUIRE_FALSE(report);
  CHECK(report.error().code == ErrorCode::kIdentityUnknown);
}

TEST_CASE("a prefix is written where it can be restored, with the dtype asked for", "[converters]") {
  const Bytes card = card_of(two_layers(), rope(RopePairing::kHalfSplit));
  PtWriteOptions options;
  options.decode.token_count = 5;
  options.dtype = DType::kF32;
  const Bytes pt = pt_of_card(card, options);
  const MemorySource source(pt);
  auto cache = read_pt_cache(source);
  REQUIRE(cache);
  CHECK(cache->shapes[0].key_dtype == DType::kF32);
  const MemorySource card_source(card);
  auto reader = CardReader::open(card_source);
  REQUIRE(reader);
  MemorySink sink;
  options.decode.token_count = 4;  // the window layer begins at 2, its window is 4: 5 tokens at least
  CHECK(write_pt(*reader, sink, options).error().code == ErrorCode::kNotRestorable);
  options.decode.token_count = 6;
  CHECK(write_pt(*reader, sink, options).error().code == ErrorCode::kInvalidArgument);
  CHECK(sink.bytes().empty());
}

TEST_CASE("transformers' order of pairs is known by architecture or not at all", "[converters]") {
  CHECK(transformers_pairing("llama", RopePairing::kInterleaved) == RopePairing::kHalfSplit);
  CHECK(transformers_pairing("command-r", RopePairing::kInterleaved) == RopePairing::kInterleaved);
  CHECK(transformers_pairing("qwen2", RopePairing::kHalfSplit) == RopePairing::kHalfSplit);
  CHECK_FALSE(transformers_pairing("plm", RopePairing::kInterleaved));
  CHECK_FALSE(transformers_pairing("", RopePairing::kInterleaved));
}
