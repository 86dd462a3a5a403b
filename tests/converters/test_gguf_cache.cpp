#include <catch2/catch.hpp>

#include "gguf_round_trip.hpp"

using namespace cachecard;
using namespace cachecard::gguf;
using namespace cachecard::gguf::test;

namespace {

template <class Visit>
void for_each_valid_card(const Visit& visit) {
  for (const auto& entry :
       std::filesystem::directory_iterator(std::string(CACHECARD_FIXTURES_DIR) + "/valid")) {
    if (entry.path().extension() != ".card") continue;
    INFO(entry.path().filename().string());
    const ValidCard valid(entry.path());
    visit(*valid.card);
  }
}

/// Whether a card can come back the same: exact codecs, and a header as this library lays it out.
bool exact(const CardReader& card) {
  const auto header = encode_header(card.header());
  if (!header || header->size() != card.prologue().header_size) return false;
  for (const FrameHeader& frame : card.frames()) {
    if (frame.section_type == static_cast<std::uint16_t>(SectionType::kChunk) && frame.codec > 1)
      return false;
  }
  return true;
}

std::vector<std::byte> rows_of(const CardReader& card, std::size_t index) {
  const StreamRecord& stream = card.header().streams[index];
  std::vector<std::byte> rows(stream.token_count * row_bytes(stream, static_cast<DType>(stream.dtype)));
  std::vector<std::byte> scratch(card.scratch_bytes(index));
  REQUIRE(card.read_rows(index, stream.first_token, stream.token_count, rows, scratch));
  return rows;
}

}  // namespace

TEST_CASE("a card of exact codecs comes back from GGUF with its root", "[converters]") {
  int cards = 0;
  for_each_valid_card([&cards](const CardReader& card) {
    if (!exact(card)) return;
    ++cards;
    const Bytes bytes = gguf_of(card);
    const MemorySource source(bytes);
    MemorySink sink;
    const auto written = card_of(source, sink);
    if (!written) FAIL(written.error().message());
    CHECK(to_hex(written->root) == to_hex(card.trailer().root));
    std::vector<std::byte> original(card.trailer().file_size);
    REQUIRE(card.source().read_at(0, original));
    CHECK((sink.bytes() == original));  // not shown: hundreds of bytes
  });
  CHECK(cards > 70);
}

TEST_CASE("tensors hold a card's rows, whatever its codec", "[converters]") {
  int cards = 0;
  for_each_valid_card([&cards](const CardReader& card) {
    if (exact(card)) return;
    ++cards;
    const Bytes bytes = gguf_of(card);
    const MemorySource source(bytes);
    auto cache = read_gguf_cache(source);
    REQUIRE(cache);
    CHECK_FALSE(cache->form);
    CHECK(cache->header.identity == card.header().identity);
    const auto values = gguf_source(source, std::move(*cache));
    for (std::size_t i = 0; i < card.header().streams.size(); ++i) {
      const StreamRecord& stream = card.header().streams[i];
      if (stream.stream == static_cast<std::uint8_t>(StreamKind::kOpaque)) continue;
      const auto rows = rows_of(card, i);
      std::vector<std::byte> found(rows.size());
      REQUIRE(values->read_rows(i, stream.first_token, stream.token_count, found));
      CHECK(found == rows);
    }
  });
  CHECK(cards > 10);
}

TEST_CASE("values are decoded into the type that was asked for", "[converters]") {
  const ValidCard valid("ggml_q8_0_rotated.card");
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBf16}) {
    GgufWriteOptions options;
    options.dtype = dtype;
    const Bytes bytes = gguf_of(*valid.card, options);
    const MemorySource source(bytes);
    MemorySink sink;
    REQUIRE(card_of(source, sink));
    const MemorySource card_bytes(sink.bytes());
    const auto card = CardReader::open(card_bytes);
    REQUIRE(card);
    for (std::size_t i = 0; i < card->header().streams.size(); ++i) {
      const StreamRecord& stream = card->header().streams[i];
      CHECK(static_cast<DType>(stream.dtype) == dtype);
      CHECK(stream.hadamard_size == 1);
      const std::uint64_t size = dtype_info(dtype)->block_bytes;
      std::vector<std::byte> wanted(stream.token_count * row_elements(stream) * size);
      DecodeTarget target;
      target.base = wanted.data();
      target.dtype = dtype;
      target.channel_stride = static_cast<std::int64_t>(size);
      target.head_stride = target.channel_stride * stream.head_dim;
      target.token_stride = target.head_stride * stream.kv_head_count;
      REQUIRE(valid.card->decode({i, stream.first_token, stream.token_count, false, {}}, target));
      CHECK(rows_of(*card, i) == wanted);
    }
  }
}

TEST_CASE("another value, key or token makes another card, never a refusal", "[converters]") {
  const ValidCard valid("ggml_q8_0_zstd.card");
  const auto root_of = [](const Bytes& bytes) {
    const MemorySource source(bytes);
    MemorySink sink;
    const auto written = card_of(source, sink);
    if (!written) FAIL(written.error().message());
    const MemorySource card_bytes(sink.bytes());
    CHECK(CardReader::open(card_bytes));
    return to_hex(written->root);
  };
  const std::string root = to_hex(valid.card->trailer().root);
  const Bytes original = gguf_of(*valid.card);
  CHECK(root_of(original) == root);
  GgufSurgeon value(original);
  value.data[8] ^= std::byte{1};
  CHECK(root_of(value.bytes()) != root);
  GgufSurgeon token(original);
  token.set<std::int32_t>("kv_cache.token_ids", 77, 12);
  CHECK(root_of(token.bytes()) != root);
  GgufSurgeon formless(original);
  std::erase_if(formless.tensors, [](const auto& tensor) { return tensor.name.starts_with("cachecard."); });
  const auto& last = formless.tensors.back();
  formless.data.resize(padded(last.offset + last.dims[0] / 32 * 34 * last.dims[1]));
  CHECK(root_of(formless.bytes()) != root);
}
