#include <bit>
#include <catch2/catch.hpp>

#include "cachecard/card.hpp"
#include "cachecard/digest.hpp"
#include "cachecard/profile.hpp"
#include "cachecard/reader.hpp"
#include "cachecard/writer.hpp"
#include "codec/byte_compressor.hpp"
#include "format/framing.hpp"
#include "kernel/floats.hpp"
#include "kernel/ggml_blocks.hpp"
#include "spec_file.hpp"

/// VECTORS.md, made by hand, against encoder and decoder.
namespace cachecard {
namespace {

using Bytes = std::vector<std::byte>;

const std::string& vectors() {
  static const std::string text = spec::read_spec("VECTORS.md");
  return text;
}

Bytes hex(const std::string& name) { return spec::hex_block(vectors(), name); }

std::vector<float> floats(const std::string& name) {
  std::vector<float> values;
  for (const auto& words : spec::words_of(spec::block(vectors(), "f32", name))) {
    for (const auto& word : words) values.push_back(std::stof(word));
  }
  return values;
}

std::string hex_of(const Digest128& digest) {
  std::string text = to_hex(digest);
  for (char& c : text) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return text;
}

std::string hex_of(std::uint64_t number, int digits) {
  char text[20];
  std::snprintf(text, sizeof(text), "%0*llX", digits, static_cast<unsigned long long>(number));
  return text;
}

std::uint32_t bits(const std::string& word) {
  return static_cast<std::uint32_t>(std::stoul(word, nullptr, 16));
}

/// One attention layer with a key and a value stream.
CardHeader one_layer(DType dtype, std::uint32_t heads, std::uint32_t head_dim, std::uint64_t tokens) {
  CardHeader header;
  header.token_count = tokens;
  header.next_position = static_cast<std::int64_t>(tokens);
  header.layer_count = 1;
  for (const StreamKind kind : {StreamKind::kKey, StreamKind::kValue}) {
    StreamRecord stream;
    stream.stream = static_cast<std::uint8_t>(kind);
    stream.dtype = static_cast<std::uint8_t>(dtype);
    stream.kv_head_count = heads;
    stream.head_dim = head_dim;
    stream.token_count = tokens;
    header.streams.push_back(stream);
  }
  SegmentRecord segment;
  segment.token_count = tokens;
  header.segments.push_back(segment);
  return header;
}

CardHeader tiny_header() {
  CardHeader header = one_layer(DType::kF32, 1, 4, 2);
  header.streams[0].rope_state = static_cast<std::uint8_t>(RopeState::kPostRope);
  header.streams[0].rope_pairing = static_cast<std::uint8_t>(RopePairing::kInterleaved);
  header.identity.set_text(IdentityField::kArchitecture, "llama");
  return header;
}

constexpr std::array<float, 8> kTinyKeys{1, 2, 3, 4, 5, 6, 7, 8};
constexpr std::array<float, 8> kTinyValues{0.5f, -0.5f, 0.25f, -0.25f, -1, -2, -3, -4};

/// encode(parse(bytes)) == bytes.
template <class Parsed, class Encode>
void check_round_trip(const Result<Parsed>& parsed, const Bytes& bytes, Encode&& encode) {
  if (!parsed) FAIL(parsed.error().message());
  CHECK(encode(*parsed) == bytes);
}

}  // namespace

TEST_CASE("vector: digests") {
  for (const auto& words : spec::words_of(spec::block(vectors(), "digests", "xxh3"))) {
    const std::string& input = words[0];
    INFO(input);
    Bytes bytes;
    if (input.rfind("text:", 0) == 0) {
      for (const char c : input.substr(5)) bytes.push_back(static_cast<std::byte>(c));
    } else if (input.rfind("count:", 0) == 0) {
      for (std::size_t i = 0; i < std::stoul(input.substr(6)); ++i)
        bytes.push_back(static_cast<std::byte>(i & 255));
    }
    CHECK(hex_of(digest64(bytes), 16) == words[1]);
    CHECK(hex_of(digest128(bytes)) == words[2]);
    Digester pieces;
    for (const std::byte& b : bytes) pieces.update(std::span(&b, 1));
    CHECK(hex_of(pieces.finish64(), 16) == words[1]);
    CHECK(hex_of(pieces.finish128()) == words[2]);
  }
  for (const char* name : {"weights_string", "tokenizer_string"}) {
    INFO(name);
    CHECK(hex_of(digest128(hex(name))) == spec::words_of(spec::block(vectors(), "digests", name))[0][0]);
  }
}

TEST_CASE("vector: a whole card is read") {
  const Bytes bytes = hex("tiny_card");
  const MemorySource source(bytes);
  SourceStream stream(source);
  VerifyOptions options;
  options.decode = true;
  const auto report = verify(stream, options);
  if (!report) FAIL(report.error().message());
  CHECK(report->trailer.frame_count == 7);
  const auto card = CardReader::open(source);
  if (!card) FAIL(card.error().message());
  CHECK(card->header().identity == tiny_header().identity);
  CHECK(card->header().token_count == 2);
  CHECK(card->token_ids().value() == std::vector<std::int32_t>{5, 7});
  CHECK(expand_positions(card->positions().value()) == std::vector<std::int32_t>{0, 1});
  CHECK(card->map(0)->base == std::vector<std::uint8_t>{64, 64});
  CHECK(card->summary()->value_count == 16);
  for (std::size_t s = 0; s < 2; ++s) {
    std::array<float, 8> values{};
    const DecodeTarget target{values.data(), DType::kF32, 16, 16, 4, nullptr};
    REQUIRE(card->decode({s, 0, 2, false}, target));
    CHECK(values == (s == 0 ? kTinyKeys : kTinyValues));
  }
}

TEST_CASE("vector: a whole card is written") {
  const CardHeader header = tiny_header();
  MemorySink sink;
  auto writer = CardWriter::create(sink, header, 0, 0);
  REQUIRE(writer);
  const auto framed = [](SectionType type) {
    FrameHeader frame = make_frame(type, 0);
    frame.token_count = 2;
    return frame;
  };
  const std::array<std::int32_t, 2> ids{5, 7};
  const std::array<std::int32_t, 2> positions{0, 1};
  REQUIRE(writer->add(framed(SectionType::kTokenIds), std::as_bytes(std::span(ids))));
  REQUIRE(writer->add(framed(SectionType::kPositions), encode_positions(position_runs(positions))));
  const auto map = writer->add(framed(SectionType::kBitWidthMap), encode_map(uniform_map(header, 2)));
  REQUIRE(map);
  for (std::size_t s = 0; s < 2; ++s) {
    FrameHeader frame = framed(SectionType::kChunk);
    frame.map_digest = map->stored_digest;
    const auto& rows = s == 0 ? kTinyKeys : kTinyValues;
    const auto section = encode_chunk(header, s, frame, std::as_bytes(std::span(rows)));
    REQUIRE(section);
    REQUIRE(writer->append(*section));
  }
  REQUIRE(writer->finish());
  CHECK(sink.bytes() == hex("tiny_card"));
}

TEST_CASE("vector: a frame header") {
  const Bytes bytes = hex("frame_header");
  const auto frame = open_frame(bytes, 1048576);
  if (!frame) FAIL(frame.error().message());
  CHECK(frame->section_type == static_cast<std::uint16_t>(SectionType::kChunk));
  CHECK(frame->flags == kFrameRequired);
  CHECK(frame->segment == 1);
  CHECK(frame->layer == 3);
  CHECK(frame->stream == static_cast<std::uint8_t>(StreamKind::kValue));
  CHECK(frame->codec == static_cast<std::uint8_t>(Codec::kGgml));
  CHECK(frame->compressor == static_cast<std::uint8_t>(Compressor::kZstd));
  CHECK(frame->dtype == static_cast<std::uint8_t>(DType::kQ8_0));
  CHECK(frame->first_token == 2048);
  CHECK(frame->token_count == 2048);
  CHECK(frame->stored_size == 400000);
  CHECK(frame->decoded_size == 2048 * 204);
  CHECK(frame->stored_digest == 0x0123456789ABCDEF);
  CHECK(frame->parameter_digest == 0x1111111122222222);
  CHECK(frame->map_digest == 0x3333333344444444);
  FrameHeader unsealed = *frame;
  unsealed.check = 0;
  const FrameBytes sealed = seal(unsealed);
  CHECK(Bytes(sealed.begin(), sealed.end()) == bytes);
}

TEST_CASE("vector: a run-length map") {
  const Bytes bytes = hex("run_length_map");
  const auto map = parse_map(bytes, one_layer(DType::kF16, 2, 4, 6), 6);
  check_round_trip(map, bytes, encode_map);
  CHECK(map->base == std::vector<std::uint8_t>{32, 32});
  CHECK(map->row_of == std::vector<std::uint16_t>{0, 0, 1, 1});
  CHECK(map->rows == std::vector<std::int8_t>{127, 127, 0, 0, 0, 0, 127, 127, -2, -2, -2, -2});
}

TEST_CASE("vector: position runs") {
  const Bytes bytes = hex("position_runs");
  std::vector<std::int32_t> positions;
  for (const auto& words : spec::words_of(spec::block(vectors(), "i32", "positions"))) {
    for (const auto& word : words) positions.push_back(std::stoi(word));
  }
  const auto runs = parse_positions(bytes, positions.size());
  if (!runs) FAIL(runs.error().message());
  CHECK(expand_positions(*runs) == positions);
  CHECK(encode_positions(position_runs(positions)) == bytes);
}

TEST_CASE("vector: parameters, RoPE table, provenance") {
  const Bytes parameters = hex("parameters");
  const auto parsed = parse_parameters(parameters);
  check_round_trip(parsed, parameters, encode_parameters);
  CHECK(parsed->record.hadamard_size == 64);
  CHECK(vectors().find("is " + hex_of(digest64(parameters), 16) + ".") != std::string::npos);

  const Bytes table = hex("rope_table");
  const auto rope = parse_rope_table(table);
  check_round_trip(rope, table, encode_rope_table);
  CHECK(rope->inverse_frequencies == std::vector<double>{1.0, 0.01});
  CHECK(rope->record.pairing == static_cast<std::uint8_t>(RopePairing::kHalfSplit));

  const Bytes provenance = hex("provenance");
  const auto steps = parse_provenance(provenance);
  check_round_trip(steps, provenance, [](const auto& entries) { return encode_provenance(entries); });
  REQUIRE(steps->size() == 1);
  CHECK(steps->front().operation == ProvenanceOp::kTrim);
  CHECK(steps->front().text == "trim tokens 0:10");
}

TEST_CASE("vector: model profile") {
  const auto layer = parse_profile_layer(hex("model_profile"));
  REQUIRE(layer);
  CHECK(layer->record.layer == 5);
  CHECK(layer->record.attention_scale == 0.5f);
  CHECK(layer->key_costs == std::vector<float>{0.5f});
  CHECK(layer->value_costs == std::vector<float>{2.0f});
  CHECK(layer->key_steps == std::vector<std::uint8_t>{128, 144});
  CHECK(layer->map_down == std::vector<float>{127.0f, 1.0f, -2.0f, 1.0f});
  CHECK(layer->map_up == std::vector<float>{3.0f, -1.0f});
  CHECK(layer->centroids == std::vector<float>{127.0f, -127.0f});
  CHECK(layer->centroid_weights == std::vector<float>{1.0f});
}

TEST_CASE("vector: source layout") {
  const Bytes bytes = hex("source_layout");
  const auto layout = parse_source_layout(bytes, tiny_header());
  check_round_trip(layout, bytes, encode_source_layout);
  std::vector<std::size_t> token_of_cell;
  for (const OrderRun& run : layout->order_runs) {
    for (std::uint32_t i = 0; i < run.token_count; ++i) token_of_cell.push_back(run.first_token + i);
  }
  const Bytes literals = hex("source_literals");
  Bytes file;
  std::size_t literal = 0;
  const auto put = [&](std::span<const std::byte> piece) {
    file.insert(file.end(), piece.begin(), piece.end());
  };
  for (const SourceOperation& op : layout->operations) {
    if (op.operation == static_cast<std::uint8_t>(SourceOp::kLiteral)) {
      put(std::span(literals).subspan(literal, op.size));
      literal += op.size;
      continue;
    }
    const auto rows = std::as_bytes(std::span(op.stream == 0 ? kTinyKeys : kTinyValues));
    for (std::size_t outer = 0; outer < (op.transposed != 0 ? 4u : token_of_cell.size()); ++outer) {
      for (std::size_t inner = 0; inner < (op.transposed != 0 ? token_of_cell.size() : 4u); ++inner) {
        const std::size_t channel = op.transposed != 0 ? outer : inner;
        const std::size_t cell = op.transposed != 0 ? inner : outer;
        put(rows.subspan((token_of_cell[cell] * 4 + channel) * 4, 4));
      }
    }
  }
  CHECK(file == hex("source_file"));
}

TEST_CASE("vector: blocks of ggml") {
  for (const char* name : {"q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl", "q4_1_rounding"}) {
    INFO(name);
    const std::string type = std::string(name).substr(0, std::string(name).find("_rounding"));
    const DTypeInfo* info = dtype_by_name(type);
    REQUIRE(info != nullptr);
    const Bytes bytes = hex(name);
    REQUIRE(bytes.size() == info->block_bytes);
    std::vector<float> values(32);
    kernel::to_f32(info->dtype, bytes, values);
    CHECK(values == floats(name));
  }
}

TEST_CASE("vector: float conversions") {
  for (const auto& words : spec::words_of(spec::block(vectors(), "cases", "narrow"))) {
    INFO(words[0]);
    const float value = std::bit_cast<float>(bits(words[0]));
    CHECK(hex_of(kernel::f16_from_f32(value), 4) == words[1]);
    CHECK(hex_of(kernel::bf16_from_f32(value), 4) == words[2]);
  }
  for (const auto& words : spec::words_of(spec::block(vectors(), "cases", "widen_f16"))) {
    INFO(words[0]);
    const float value = kernel::f32_from_f16(static_cast<std::uint16_t>(bits(words[0])));
    CHECK(hex_of(std::bit_cast<std::uint32_t>(value), 8) == words[1]);
  }
}

TEST_CASE("vector: rotation") {
  for (const std::size_t n : {std::size_t{2}, std::size_t{4}}) {
    const std::string name = "hadamard_" + std::to_string(n);
    std::vector<float> values = floats(name + "_in");
    kernel::hadamard(values, n);
    CHECK(values == floats(name + "_out"));
    if (n == 4) {  // n = 2 has a scale that is no power of two: back only to an ulp
      kernel::hadamard(values, n);
      CHECK(values == floats(name + "_in"));
    }
  }
}

TEST_CASE("vector: byte split") {
  // Repeated, so that zstd makes it smaller and encoder and decoder can be asked for their halves.
  constexpr std::size_t kTimes = 256;
  for (const auto& [name, element] :
       {std::pair("split_f16", std::size_t{2}), std::pair("split_f32", std::size_t{4})}) {
    INFO(name);
    const Bytes in = hex(std::string(name) + "_in");
    const Bytes out = hex(std::string(name) + "_out");
    Bytes payload;
    Bytes expected;
    for (std::size_t i = 0; i < kTimes; ++i) payload.insert(payload.end(), in.begin(), in.end());
    const std::size_t plane = out.size() / element;
    for (std::size_t k = 0; k < element; ++k) {
      for (std::size_t i = 0; i < kTimes; ++i) {
        const auto first = out.begin() + static_cast<std::ptrdiff_t>(k * plane);
        expected.insert(expected.end(), first, first + static_cast<std::ptrdiff_t>(plane));
      }
    }
    const auto stored = compress(Compressor::kSplitZstd, payload, element, 3);
    REQUIRE(stored);
    Bytes split(payload.size());
    REQUIRE(decompress(Compressor::kZstd, *stored, element, split, {}));
    CHECK(split == expected);
    Bytes back(payload.size());
    Bytes scratch(payload.size());
    REQUIRE(decompress(Compressor::kSplitZstd, *stored, element, back, scratch));
    CHECK(back == payload);
  }
}

TEST_CASE("vector: byte compressors") {
  Bytes out(1000);
  REQUIRE(decompress(Compressor::kZstd, hex("zstd_1000_a"), 1, out, {}));
  CHECK(out == Bytes(1000, std::byte{0x61}));
  Bytes ones(64);
  Bytes scratch(64);
  REQUIRE(decompress(Compressor::kSplitZstd, hex("split_zstd_32_ones"), 2, ones, scratch));
  for (std::size_t i = 0; i < ones.size(); ++i)
    CHECK(ones[i] == (i % 2 == 0 ? std::byte{0} : std::byte{0x3C}));
}

}  // namespace cachecard
