#include <catch2/catch.hpp>

#include "card_plan.hpp"
#include "format/header_checks.hpp"

using namespace cachecard;

namespace {

CardHeader sample() {
  fixtures::CardPlan plan = fixtures::make_plan("header", "", 20, "", "");
  fixtures::add_layer(plan, 0, DType::kF16, {.kv_head_count = 2, .head_dim = 8});
  fixtures::add_stream(plan, 3, StreamKind::kLatent, DType::kBf16, {.head_dim = 12}).part_count = 2;
  fixtures::add_opaque(plan, 4, 99);
  plan.header.parts = {{0, 4, 1, {}}, {4, 8, 0, {}}};
  fixtures::cut_segments(plan, {12, 8});
  plan.header.flags = kHeaderNotAPrefix | kHeaderPartialLayers;
  plan.header.restorable = Restorable::kFromCount;
  plan.header.restorable_from = 7;
  plan.header.next_position = -3;
  plan.header.identity.set_f64(IdentityField::kRopeBase, 10000.0);
  return plan.header;
}

template <class Change>
Error refusal(Change&& change) {
  CardHeader header = sample();
  change(header);
  const auto bytes = encode_header(header);
  return bytes ? Error{ErrorCode::kOk, 0, {}, {}} : bytes.error();
}

}  // namespace

TEST_CASE("a header comes back as it was, and encodes to the same bytes again", "[unit]") {
  const CardHeader header = sample();
  const auto bytes = encode_header(header);
  REQUIRE(bytes);
  const auto back = parse_header(*bytes);
  REQUIRE(back);
  CHECK(back->flags == header.flags);
  CHECK(back->token_count == 20);
  CHECK(back->next_position == -3);
  CHECK(back->layer_count == 5);
  CHECK(back->restorable == Restorable::kFromCount);
  CHECK(back->restorable_from == 7);
  CHECK(back->identity == header.identity);
  CHECK(back->streams.size() == 4);
  CHECK(back->parts.size() == 2);
  CHECK(back->segments.size() == 2);
  CHECK(encode_header(*back).value() == *bytes);
}

TEST_CASE("a header shorter than its record is refused, at every size", "[unit]") {
  const auto bytes = encode_header(sample());
  REQUIRE(bytes);
  for (std::size_t size = 0; size < bytes->size(); ++size) {
    const auto back = parse_header(std::span(*bytes).first(size));
    REQUIRE_FALSE(back);
    if (size < encoded_size<HeaderRecord>()) CHECK(back.error().code == ErrorCode::kBadSize);
  }
}

TEST_CASE("streams are found by layer and kind", "[unit]") {
  const CardHeader header = sample();
  CHECK(header.stream_index(0, StreamKind::kValue) == 1u);
  CHECK(header.stream_index(4, StreamKind::kOpaque) == 3u);
  CHECK_FALSE(header.stream_index(1, StreamKind::kKey));
}

TEST_CASE("row_bytes counts whole blocks", "[unit]") {
  StreamRecord stream;
  stream.kv_head_count = 2;
  stream.head_dim = 64;
  CHECK(row_elements(stream) == 128);
  CHECK(row_bytes(stream, DType::kF32) == 512);
  CHECK(row_bytes(stream, DType::kBf16) == 256);
  CHECK(row_bytes(stream, DType::kQ8_0) == 136);
  CHECK(row_bytes(stream, DType::kQ5_1) == 96);
  CHECK(row_bytes(stream, DType::kIq4Nl) == 72);
}

TEST_CASE("encode_header refuses what parse_header would, naming the rule", "[unit]") {
  CHECK(refusal([](CardHeader&) {}).code == ErrorCode::kOk);
  CHECK(refusal([](CardHeader& h) { h.streams[0].hadamard_size = 3; }).field == "stream.hadamard_size");
  CHECK(refusal([](CardHeader& h) { h.streams[0].dtype = 77; }).field == "stream.dtype");
  CHECK(refusal([](CardHeader& h) { std::swap(h.streams[0], h.streams[1]); }).field == "stream.layer");
  CHECK(refusal([](CardHeader& h) { h.segments[1].first_token = 13; }).field == "segment.first_token");
  CHECK(refusal([](CardHeader& h) { h.parts[1].width = 9; }).field == "stream.part_count");
  CHECK(refusal([](CardHeader& h) { h.flags = 8; }).field == "header.flags");
  CHECK(refusal([](CardHeader& h) {
          h.identity.set({5, ValueType::kU64, std::string(8, 'x')});
        }).field == "identity.value_type");
  CHECK(refusal([](CardHeader& h) { h.identity.set_text(IdentityField::kProducer, "\xFF"); }).code ==
        ErrorCode::kCorrupt);
  CHECK(refusal([](CardHeader& h) {
          h.identity.set_text(IdentityField::kProducer, std::string(256u << 10, 'x'));
        }).code == ErrorCode::kLimitExceeded);
  CHECK(refusal([](CardHeader& h) { h.streams.resize((1u << 14) + 1); }).code == ErrorCode::kLimitExceeded);
}

TEST_CASE("is_utf8 accepts every scalar value's encoding and nothing else", "[unit]") {
  for (std::uint32_t point = 0; point <= 0x110000; ++point) {
    std::string text;
    if (point < 0x80) {
      text = {static_cast<char>(point)};
    } else if (point < 0x800) {
      text = {static_cast<char>(0xC0 | point >> 6), static_cast<char>(0x80 | (point & 63))};
    } else if (point < 0x10000) {
      text = {static_cast<char>(0xE0 | point >> 12), static_cast<char>(0x80 | (point >> 6 & 63)),
              static_cast<char>(0x80 | (point & 63))};
    } else {
      text = {static_cast<char>(0xF0 | point >> 18), static_cast<char>(0x80 | (point >> 12 & 63)),
              static_cast<char>(0x80 | (point >> 6 & 63)), static_cast<char>(0x80 | (point & 63))};
    }
    const bool scalar = point <= 0x10FFFF && (point < 0xD800 || point > 0xDFFF);
    if (is_utf8(text) != scalar) FAIL("code point " << point);
    if (text.size() > 1 && is_utf8(text.substr(0, text.size() - 1))) FAIL("cut code point " << point);
  }
  for (const char* bad : {"\x80", "\xBF", "\xC0\x80", "\xC1\xBF", "\xE0\x80\x80", "\xF0\x80\x80\x80",
                          "\xF5\x80\x80\x80", "\xFE", "\xFF", "a\x80", "\xC3\x28"}) {
    CHECK_FALSE(is_utf8(bad));
  }
}
