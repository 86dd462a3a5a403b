#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <functional>

#include "c_api_card.hpp"

using namespace c_api_card;

namespace {

constexpr std::uint32_t kArchitecture = 1;
constexpr std::uint32_t kVocabSize = 8;
constexpr std::uint32_t kModelName = 21;

/// A folder of its own, gone with the object.
struct Folder {
  std::filesystem::path path =
      std::filesystem::temp_directory_path() / ("test_c_api_writer_" + std::to_string(::getpid()));
  Folder() { std::filesystem::create_directories(path); }
  ~Folder() { std::filesystem::remove_all(path); }
  std::string file(const char* name) const { return (path / name).string(); }
  std::size_t file_count() const {
    return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(path), {}));
  }
};

struct Description {
  ccd_writer* writer = described_writer();
  ~Description() { ccd_writer_destroy(writer); }
};

/// Writes into a string what a description says, one thing changed.
struct Attempt {
  std::string card;
  ccd_values values = c_api_card::values();
  ccd_output output = sized<ccd_output>();
  ccd_write_options options = write_options();
  ccd_error error{};

  Attempt() {
    output.write = append;
    output.user = &card;
  }
  ccd_status write(const ccd_writer* writer) {
    return ccd_writer_write_to(writer, &output, &values, &options, nullptr, &error);
  }
};

ccd_status fail_rows(void*, std::uint32_t layer, std::uint32_t, std::uint64_t, std::uint64_t, void* out,
                     std::size_t size) {
  std::memset(out, 0, size);
  return layer == 1 ? CCD_NON_FINITE : CCD_OK;
}

std::vector<ccd_field_verdict> match(const ccd_card* card, const std::vector<ccd_identity_value>& target,
                                     const std::vector<const char*>& allow, ccd_status expected) {
  std::vector<ccd_field_verdict> verdicts(32);
  std::size_t count = 0;
  CHECK(ccd_card_match(card, target.data(), target.size(), allow.data(), allow.size(), verdicts.data(),
                       verdicts.size(), &count, nullptr) == expected);
  verdicts.resize(count);
  return verdicts;
}

const ccd_field_verdict& verdict_of(const std::vector<ccd_field_verdict>& verdicts, std::uint32_t field) {
  for (const auto& verdict : verdicts) {
    if (verdict.field_id == field) return verdict;
  }
  FAIL("no verdict for field " << field);
  return verdicts.front();
}

}  // namespace

TEST_CASE("identity values come as bytes and as text", "[c_api]") {
  const Card card(bytes());
  std::uint32_t field = 0;
  const std::uint32_t expected[] = {kArchitecture, kVocabSize, kModelName};
  for (std::uint32_t i = 0; i < 3; ++i) {
    REQUIRE(ccd_card_get_identity_id(card.handle, i, &field, nullptr) == CCD_OK);
    CHECK(field == expected[i]);
  }
  CHECK(ccd_card_get_identity_id(card.handle, 3, &field, nullptr) == CCD_INVALID_ARGUMENT);
  CHECK(ccd_card_get_identity_id(card.handle, 0, nullptr, nullptr) == CCD_INVALID_ARGUMENT);
  CHECK(ccd_card_get_identity_id(nullptr, 0, &field, nullptr) == CCD_INVALID_ARGUMENT);

  std::uint32_t type = 0;
  std::uint64_t number = 0;
  std::size_t size = 0;
  REQUIRE(ccd_card_get_identity(card.handle, kVocabSize, &type, &number, 8, &size, nullptr) == CCD_OK);
  CHECK((type == CCD_VALUE_U64 && number == 32000 && size == 8));
  REQUIRE(ccd_card_get_identity(card.handle, kArchitecture, nullptr, nullptr, 0, &size, nullptr) == CCD_OK);
  CHECK(size == 5);
  char text[8] = {};
  REQUIRE(ccd_card_format_identity(card.handle, kVocabSize, text, sizeof(text), &size, nullptr) == CCD_OK);
  CHECK((std::string(text) == "32000" && size == 6));
}

TEST_CASE("identity refuses small buffers and unknown fields", "[c_api]") {
  const Card card(bytes());
  char text[8] = "before";
  std::size_t size = 0;
  CHECK(ccd_card_format_identity(card.handle, kVocabSize, text, 5, &size, nullptr) == CCD_BUFFER_TOO_SMALL);
  CHECK((size == 6 && std::string(text) == "before"));
  CHECK(ccd_card_get_identity(card.handle, kArchitecture, nullptr, text, 4, &size, nullptr) ==
        CCD_BUFFER_TOO_SMALL);
  CHECK(size == 5);
  ccd_error error;
  CHECK(ccd_card_get_identity(card.handle, 10, nullptr, text, 8, nullptr, &error) == CCD_IDENTITY_UNKNOWN);
  CHECK(std::string(error.field) == "identity.rope_type");
  CHECK(ccd_card_format_identity(card.handle, 70000, text, 8, nullptr, nullptr) == CCD_IDENTITY_UNKNOWN);
  CHECK(ccd_card_format_identity(card.handle, kVocabSize, nullptr, 8, nullptr, nullptr) ==
        CCD_INVALID_ARGUMENT);
  CHECK(ccd_card_get_identity(nullptr, kArchitecture, nullptr, text, 8, nullptr, nullptr) ==
        CCD_INVALID_ARGUMENT);
}

TEST_CASE("match judges fields given by the caller", "[c_api]") {
  const Card card(bytes());
  const auto other = match(card.handle, {text(kArchitecture, "qwen2")}, {}, CCD_MODEL_MISMATCH);
  CHECK(verdict_of(other, kArchitecture).verdict == CCD_VERDICT_DIFFERENT);
  CHECK(verdict_of(other, kArchitecture).override_name == nullptr);
  const auto same = match(card.handle, {text(kArchitecture, "llama")}, {}, CCD_IDENTITY_UNKNOWN);
  CHECK(verdict_of(same, kArchitecture).verdict == CCD_VERDICT_EQUAL);
  const ccd_field_verdict tokenizer = verdict_of(same, 7);
  CHECK((tokenizer.verdict == CCD_VERDICT_UNKNOWN && tokenizer.overridden == 0));
  CHECK(tokenizer.override_name == std::string("tokenizer-unknown"));
  const auto allowed =
      match(card.handle, {text(kArchitecture, "llama")}, {"tokenizer-unknown"}, CCD_IDENTITY_UNKNOWN);
  CHECK(verdict_of(allowed, 7).overridden == 1);
}

TEST_CASE("match refuses what is no fact, no name and no room", "[c_api]") {
  const Card card(bytes());
  const std::uint64_t number = 7;
  const ccd_identity_value bad[] = {{kArchitecture, CCD_VALUE_U64, &number, 8},
                                    {kVocabSize, CCD_VALUE_U64, &number, 7},
                                    {kVocabSize, 9, &number, 8},
                                    {0x10001, CCD_VALUE_U64, &number, 8},
                                    {kVocabSize, CCD_VALUE_U64, nullptr, 8}};
  for (const auto& value : bad) match(card.handle, {value}, {}, CCD_INVALID_ARGUMENT);
  match(card.handle, {}, {"everything"}, CCD_INVALID_ARGUMENT);
  match(card.handle, {}, {nullptr}, CCD_INVALID_ARGUMENT);
  match(nullptr, {}, {}, CCD_INVALID_ARGUMENT);
  CHECK(ccd_card_match(card.handle, nullptr, 1, nullptr, 0, nullptr, 0, nullptr, nullptr) ==
        CCD_INVALID_ARGUMENT);
  CHECK(ccd_card_match(card.handle, nullptr, 0, nullptr, 1, nullptr, 0, nullptr, nullptr) ==
        CCD_INVALID_ARGUMENT);
  ccd_field_verdict one;
  std::size_t count = 0;
  CHECK(ccd_card_match(card.handle, nullptr, 0, nullptr, 0, &one, 1, &count, nullptr) ==
        CCD_BUFFER_TOO_SMALL);
  CHECK(count == 17);
}

TEST_CASE("match compares two cards", "[c_api]") {
  const Card card(bytes());
  std::vector<ccd_field_verdict> verdicts(17);
  ccd_error error;
  CHECK(ccd_card_match_card(card.handle, card.handle, nullptr, 0, verdicts.data(), 17, nullptr, &error) ==
        CCD_IDENTITY_UNKNOWN);
  CHECK(std::string(error.field) == "identity.weights_digest");
  CHECK(verdict_of(verdicts, kVocabSize).verdict == CCD_VERDICT_EQUAL);
  CHECK(ccd_card_match_card(card.handle, nullptr, nullptr, 0, nullptr, 0, nullptr, nullptr) ==
        CCD_INVALID_ARGUMENT);
}

TEST_CASE("two cards of a fully known model match", "[c_api]") {
  Description d;
  const unsigned char digest[16] = {1, 2, 3};
  const ccd_identity_value known[] = {{2, CCD_VALUE_DIGEST, digest, 16},
                                      {7, CCD_VALUE_DIGEST, digest, 16},
                                      text(6, "none"),
                                      text(10, "none")};
  for (const auto& value : known) REQUIRE(ccd_writer_set_identity(d.writer, &value, nullptr) == CCD_OK);
  Attempt attempt;
  REQUIRE(attempt.write(d.writer) == CCD_OK);
  const Card card(attempt.card);
  CHECK(ccd_card_match_card(card.handle, card.handle, nullptr, 0, nullptr, 0, nullptr, nullptr) == CCD_OK);
}

TEST_CASE("the writer writes a file whole or not at all", "[c_api]") {
  const Folder folder;
  const Description d;
  const std::string path = folder.file("a.card");
  auto from = values();
  auto report = sized<ccd_write_report>();
  const auto options = write_options();
  REQUIRE(ccd_writer_write_file(d.writer, path.c_str(), &from, &options, &report, nullptr) == CCD_OK);
  CHECK(report.file_size == std::filesystem::file_size(path));
  CHECK(report.value_count == 4 * kTokens * kHeads * kHeadDim);
  auto verified = sized<ccd_verify_report>();
  REQUIRE(ccd_verify_file(path.c_str(), CCD_VERIFY_DECODE, nullptr, &verified, nullptr) == CCD_OK);
  CHECK(std::equal(report.root, report.root + 16, verified.root));
  std::ifstream in(path, std::ios::binary);
  CHECK((std::string(std::istreambuf_iterator<char>(in), {}) == bytes()));

  from.read_rows = fail_rows;
  CHECK(ccd_writer_write_file(d.writer, folder.file("b.card").c_str(), &from, nullptr, nullptr, nullptr) ==
        CCD_NON_FINITE);
  auto keep = sized<ccd_write_options>();
  keep.flags = CCD_WRITE_KEEP_EXISTING | CCD_WRITE_NO_SYNC;
  from = values();
  CHECK(ccd_writer_write_file(d.writer, path.c_str(), &from, &keep, nullptr, nullptr) == CCD_IO);
  CHECK(ccd_writer_write_file(d.writer, "/nonexistent/a.card", &from, nullptr, nullptr, nullptr) == CCD_IO);
  CHECK(folder.file_count() == 1);
}

TEST_CASE("planes are written and read through the ABI, also by callers that do not know them", "[c_api]") {
  const Description d;
  Attempt exact;
  exact.options.struct_size = offsetof(ccd_write_options, codec);  // a caller of before planes
  REQUIRE(exact.write(d.writer) == CCD_OK);
  Attempt lossy;
  lossy.options.codec = CCD_CODEC_PLANES;
  lossy.options.key_bits = 5;
  lossy.options.flags |= CCD_WRITE_EXACT_TOKENS;
  lossy.options.exact_tokens = 1;
  REQUIRE(lossy.write(d.writer) == CCD_OK);
  CHECK(lossy.card != exact.card);
  auto report = sized<ccd_verify_report>();
  CHECK(ccd_verify_bytes(lossy.card.data(), lossy.card.size(), CCD_VERIFY_DECODE, nullptr, &report, nullptr) == CCD_OK);

  Attempt wrong;
  wrong.options.codec = 1;
  CHECK(wrong.write(d.writer) == CCD_INVALID_ARGUMENT);
  wrong.options.codec = CCD_CODEC_PLANES;
  wrong.options.value_bits = 9;
  CHECK(wrong.write(d.writer) == CCD_INVALID_ARGUMENT);
  wrong.options.value_bits = 0;
  const std::vector<std::uint8_t> bits(2 * kTokens, 9);
  wrong.options.token_bits = bits.data();
  CHECK(wrong.write(d.writer) == CCD_INVALID_ARGUMENT);
}

TEST_CASE("bit widths of planes are those of the map, chunk by chunk", "[c_api]") {
  const Description d;
  Attempt lossy;
  lossy.options.codec = CCD_CODEC_PLANES;
  std::vector<std::uint8_t> bits(2 * kTokens);
  for (std::size_t t = 0; t < kTokens; ++t) {
    bits[2 * t] = static_cast<std::uint8_t>(t % 9);  // 0: exact
    bits[2 * t + 1] = 8;
  }
  lossy.options.token_bits = bits.data();
  REQUIRE(lossy.write(d.writer) == CCD_OK);
  const Card card(lossy.card);
  std::vector<std::uint16_t> widths(kTokens);
  const auto get = [&](std::uint32_t kind, std::uint32_t head, std::uint64_t first) {
    return ccd_card_get_bit_widths(card.handle, 0, kind, head, first, kTokens - first, widths.data(), nullptr);
  };
  for (const std::uint64_t first : {0u, 61u, 299u}) {
    REQUIRE(get(CCD_STREAM_KEY, 1, first) == CCD_OK);
    for (std::uint64_t t = first; t < kTokens; ++t) CHECK(widths[t - first] == (t % 9 == 0 ? 32 : 2 * (t % 9)));
  }
  REQUIRE(get(CCD_STREAM_VALUE, 0, 0) == CCD_OK);  // q8_0, which ggml keeps
  CHECK(std::all_of(widths.begin(), widths.end(), [](std::uint16_t width) { return width == 17; }));
}

TEST_CASE("callbacks that fail end the write with their status", "[c_api]") {
  const Description d;
  Attempt attempt;
  attempt.values.read_rows = fail_rows;
  CHECK(attempt.write(d.writer) == CCD_NON_FINITE);
  CHECK(std::string(attempt.error.message) == "non_finite: read_rows returned 27");
  attempt = Attempt();
  attempt.values.read_opaque = nullptr;
  attempt.output.user = &attempt.card;
  CHECK(attempt.write(d.writer) == CCD_INVALID_ARGUMENT);
  attempt.values.read_opaque = [](void*, std::uint32_t, std::uint64_t, void*, std::size_t) -> ccd_status {
    return -1;
  };
  CHECK(attempt.write(d.writer) == CCD_IO);
  attempt = Attempt();
  attempt.output.write = [](void*, const void*, std::size_t) -> ccd_status { return CCD_INTERRUPTED; };
  CHECK(attempt.write(d.writer) == CCD_INTERRUPTED);
}

TEST_CASE("the writer's threads must do all tasks", "[c_api]") {
  const Description d;
  Attempt attempt;
  attempt.options.parallel.width = 3;
  attempt.options.parallel.run = [](void*, std::size_t count, void (*task)(void*, std::size_t),
                                    void* context) {
    for (std::size_t i = count; i-- > 0;) task(context, i);
  };
  REQUIRE(attempt.write(d.writer) == CCD_OK);
  CHECK((attempt.card == bytes()));
  attempt.options.parallel.run = [](void*, std::size_t, void (*)(void*, std::size_t), void*) {};
  CHECK(attempt.write(d.writer) == CCD_INVALID_ARGUMENT);
}

TEST_CASE("the writer refuses what is missing or names nothing", "[c_api]") {
  const Description d;
  const auto expect_invalid = [&](const std::function<void(Attempt&)>& change) {
    Attempt attempt;
    change(attempt);
    CHECK(attempt.write(d.writer) == CCD_INVALID_ARGUMENT);
    CHECK(attempt.card.empty());
  };
  expect_invalid([](Attempt& a) { a.options.flags = 64; });
  expect_invalid([](Attempt& a) { a.options.compressor = 3; });
  expect_invalid([](Attempt& a) { a.options.chunk_order = 2; });
  expect_invalid([](Attempt& a) { a.values.read_rows = nullptr; });
  expect_invalid([](Attempt& a) { a.values.struct_size = 0; });
  expect_invalid([](Attempt& a) { a.output.write = nullptr; });
  expect_invalid([](Attempt& a) { a.output.struct_size = 0; });
  Attempt attempt;
  CHECK(attempt.write(nullptr) == CCD_INVALID_ARGUMENT);
  CHECK(ccd_writer_write_to(d.writer, nullptr, &attempt.values, nullptr, nullptr, nullptr) ==
        CCD_INVALID_ARGUMENT);
  CHECK(ccd_writer_write_to(d.writer, &attempt.output, nullptr, nullptr, nullptr, nullptr) ==
        CCD_INVALID_ARGUMENT);
  CHECK(ccd_writer_write_file(d.writer, nullptr, &attempt.values, nullptr, nullptr, nullptr) ==
        CCD_INVALID_ARGUMENT);
  ccd_write_report report{};
  CHECK(ccd_writer_write_to(d.writer, &attempt.output, &attempt.values, nullptr, &report, nullptr) ==
        CCD_INVALID_ARGUMENT);
}

TEST_CASE("a description is checked call by call", "[c_api]") {
  ccd_writer* writer = nullptr;
  auto facts = writer_facts();
  CHECK(ccd_writer_create(&facts, nullptr, nullptr) == CCD_INVALID_ARGUMENT);
  CHECK(ccd_writer_create(nullptr, &writer, nullptr) == CCD_INVALID_ARGUMENT);
  facts.flags = CCD_CARD_TOKENS_UNKNOWN;  // set_tokens decides that
  CHECK(ccd_writer_create(&facts, &writer, nullptr) == CCD_INVALID_ARGUMENT);
  facts = writer_facts();
  facts.restorable = 3;
  CHECK(ccd_writer_create(&facts, &writer, nullptr) == CCD_INVALID_ARGUMENT);
  CHECK(writer == nullptr);
  ccd_writer_destroy(nullptr);

  const Description d;
  const auto add = [&](const std::function<void(ccd_stream&)>& change) {
    ccd_stream s = stream(kShapes[0]);
    s.layer = 2;
    change(s);
    return ccd_writer_add_stream(d.writer, &s, nullptr);
  };
  CHECK(add([](ccd_stream& s) { s.layer = 0; }) == CCD_INVALID_ARGUMENT);  // it has keys
  CHECK(add([](ccd_stream& s) { s.stream = 4; }) == CCD_INVALID_ARGUMENT);
  CHECK(add([](ccd_stream& s) { s.dtype = 77; }) == CCD_INVALID_ARGUMENT);
  CHECK(add([](ccd_stream& s) { s.dtype = 256; }) == CCD_INVALID_ARGUMENT);
  CHECK(add([](ccd_stream& s) { s.rope_state = 3; }) == CCD_INVALID_ARGUMENT);
  CHECK(add([](ccd_stream& s) { s.rope_pairing = 3; }) == CCD_INVALID_ARGUMENT);
  CHECK(add([](ccd_stream& s) { s.struct_size = 4; }) == CCD_INVALID_ARGUMENT);
  CHECK(ccd_writer_add_stream(d.writer, nullptr, nullptr) == CCD_INVALID_ARGUMENT);
  CHECK(ccd_writer_add_stream(nullptr, nullptr, nullptr) == CCD_INVALID_ARGUMENT);
  CHECK(ccd_writer_set_identity(d.writer, nullptr, nullptr) == CCD_INVALID_ARGUMENT);
  CHECK(ccd_writer_set_identity(nullptr, nullptr, nullptr) == CCD_INVALID_ARGUMENT);
  CHECK(ccd_writer_set_tokens(nullptr, nullptr, nullptr, 1, nullptr) == CCD_INVALID_ARGUMENT);
  CHECK(ccd_writer_set_tokens(d.writer, nullptr, nullptr, SIZE_MAX, nullptr) == CCD_LIMIT_EXCEEDED);
  Attempt attempt;
  REQUIRE(attempt.write(d.writer) == CCD_OK);  // none of these left a trace
  CHECK((attempt.card == bytes()));
}

TEST_CASE("a description that contradicts itself is refused by field", "[c_api]") {
  const Description d;
  ccd_stream s = stream(kShapes[0]);
  s.layer = kLayers;
  REQUIRE(ccd_writer_add_stream(d.writer, &s, nullptr) == CCD_OK);
  Attempt attempt;
  CHECK(attempt.write(d.writer) == CCD_CORRUPT);
  CHECK(std::string(attempt.error.field) == "stream.layer");
}

TEST_CASE("positions are kept, and cards may be empty", "[c_api]") {
  Description d;
  std::vector<std::int32_t> positions(kTokens);
  for (std::size_t i = 0; i < positions.size(); ++i) positions[i] = static_cast<std::int32_t>(10 + 2 * i);
  REQUIRE(ccd_writer_set_tokens(d.writer, nullptr, positions.data(), kTokens, nullptr) == CCD_OK);
  Attempt attempt;
  REQUIRE(attempt.write(d.writer) == CCD_OK);
  const Card card(attempt.card);
  std::vector<std::int32_t> out(kTokens);
  REQUIRE(ccd_card_get_positions(card.handle, out.data(), kTokens, nullptr, nullptr) == CCD_OK);
  CHECK((out == positions));

  ccd_writer* bare = nullptr;
  auto facts = sized<ccd_writer_facts>();
  REQUIRE(ccd_writer_create(&facts, &bare, nullptr) == CCD_OK);
  Attempt empty;
  CHECK(empty.write(bare) == CCD_OK);
  ccd_writer_destroy(bare);
  const Card opened(empty.card);
  auto read = sized<ccd_facts>();
  REQUIRE(ccd_card_get_facts(opened.handle, &read, nullptr) == CCD_OK);
  CHECK((read.token_count == 0 && read.stream_count == 0 && read.value_count == 0));
}
