#include <unistd.h>

#include <array>
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

#include "c_api_card.hpp"
#include "cachecard/reader.hpp"

using namespace c_api_card;

namespace {

std::filesystem::path temporary(const std::string& name) {
  return std::filesystem::temp_directory_path() / ("test_c_api_" + std::to_string(::getpid()) + "_" + name);
}

/// A source over bytes that fails after some reads.
struct FailingSource {
  std::string data;
  int reads_left = 1000;
  ccd_status failure = CCD_IO;

  static ccd_status read_at(void* user, std::uint64_t offset, void* out, std::size_t size) {
    auto& self = *static_cast<FailingSource*>(user);
    if (self.reads_left-- <= 0) return self.failure;
    std::memcpy(out, self.data.data() + offset, size);
    return CCD_OK;
  }
  ccd_source source() {
    auto s = sized<ccd_source>();
    s.size = data.size();
    s.read_at = read_at;
    s.user = this;
    return s;
  }
};

ccd_status open_status(const std::string& data, const ccd_open_options* options = nullptr,
                       ccd_error* error = nullptr) {
  auto* card = reinterpret_cast<ccd_card*>(1);
  const ccd_status status = ccd_open_bytes(data.data(), data.size(), options, &card, error);
  CHECK((card == nullptr) == (status != CCD_OK));
  ccd_close(card);
  return status;
}

}  // namespace

TEST_CASE("codes of the C ABI are those of ErrorCode", "[c_api]") {
  std::size_t count = 0;
  const auto* table = cachecard::error_table(&count);
  const std::array codes{CCD_OK,
                         CCD_BAD_MAGIC,
                         CCD_UNSUPPORTED_VERSION,
                         CCD_UNSUPPORTED_FEATURE,
                         CCD_UNSUPPORTED_CODEC,
                         CCD_FOREIGN_INPUT,
                         CCD_TRUNCATED,
                         CCD_CORRUPT,
                         CCD_CHECKSUM_MISMATCH,
                         CCD_RESERVED_NOT_ZERO,
                         CCD_BAD_OFFSET,
                         CCD_BAD_SIZE,
                         CCD_BAD_ENUM,
                         CCD_NON_FINITE,
                         CCD_LIMIT_EXCEEDED,
                         CCD_OUT_OF_MEMORY,
                         CCD_INVALID_ARGUMENT,
                         CCD_BUFFER_TOO_SMALL,
                         CCD_MODEL_MISMATCH,
                         CCD_GEOMETRY_MISMATCH,
                         CCD_POSITION_MISMATCH,
                         CCD_IDENTITY_UNKNOWN,
                         CCD_TOKENS_UNKNOWN,
                         CCD_NOT_RESTORABLE,
                         CCD_PARTIAL_CARD,
                         CCD_IO,
                         CCD_TARGET_UNAVAILABLE,
                         CCD_TARGET_BUSY,
                         CCD_TARGET_TOO_SMALL,
                         CCD_INTERRUPTED,
                         CCD_INTERNAL};
  REQUIRE(codes.size() == count);
  for (std::size_t i = 0; i < count; ++i) {
    CHECK(codes[i] == static_cast<int>(table[i].code));
    CHECK(ccd_status_name(codes[i]) == table[i].name);
  }
  CHECK(ccd_status_name(12345) == std::string("internal"));
}

TEST_CASE("names and version", "[c_api]") {
  CHECK(ccd_version() == CCD_VERSION);
  CHECK(ccd_dtype_name(CCD_DTYPE_Q8_0) == std::string("q8_0"));
  CHECK(ccd_dtype_name(CCD_DTYPE_Q8_0 + 256) == std::string("unknown"));
  CHECK(ccd_dtype_name(77) == std::string("unknown"));
  CHECK(ccd_stream_name(CCD_STREAM_LATENT) == std::string("latent"));
  CHECK(ccd_stream_name(256) == std::string("unknown"));
  CHECK(ccd_identity_name(1) == std::string("architecture"));
  CHECK(ccd_identity_name(65537) == std::string("unknown"));
  CHECK(ccd_verdict_name(CCD_VERDICT_COMPATIBLE_WITH_LOSS) == std::string("compatible_with_loss"));
  CHECK(ccd_verdict_name(257) == std::string("unknown"));
}

TEST_CASE("a card opens from bytes, a file, a map and callbacks", "[c_api]") {
  const std::string data = bytes();
  REQUIRE_FALSE(data.empty());
  const auto path = temporary("open.card");
  std::ofstream(path, std::ios::binary) << data;
  FailingSource source{data};
  const ccd_source callbacks = source.source();
  auto mapped = sized<ccd_open_options>();
  mapped.flags = CCD_OPEN_MMAP;
  ccd_card* cards[4] = {};
  ccd_error error;
  CHECK(ccd_open_bytes(data.data(), data.size(), nullptr, &cards[0], &error) == CCD_OK);
  CHECK(ccd_open_file(path.c_str(), nullptr, &cards[1], &error) == CCD_OK);
  CHECK(ccd_open_file(path.c_str(), &mapped, &cards[2], &error) == CCD_OK);
  CHECK(ccd_open_callbacks(&callbacks, nullptr, &cards[3], &error) == CCD_OK);
  CHECK((error.code == CCD_OK && error.offset == CCD_NO_OFFSET && error.message[0] == '\0'));
  std::ifstream maps("/proc/self/maps");
  const std::string mappings(std::istreambuf_iterator<char>(maps), {});
  const std::size_t mapping = mappings.find(path.string());
  CHECK(mapping != std::string::npos);  // the map is one, the read file none
  CHECK(mappings.find(path.string(), mapping + 1) == std::string::npos);
  for (ccd_card* card : cards) {
    auto facts = sized<ccd_facts>();
    REQUIRE(ccd_card_get_facts(card, &facts, nullptr) == CCD_OK);
    CHECK(facts.file_size == data.size());
    ccd_close(card);
  }
  std::filesystem::remove(path);
}

TEST_CASE("facts are those of the header", "[c_api]") {
  const Card card(bytes());
  auto facts = sized<ccd_facts>();
  REQUIRE(ccd_card_get_facts(card.handle, &facts, nullptr) == CCD_OK);
  CHECK((facts.format_major == 0 && facts.format_minor == 2));
  CHECK((facts.flags == 0 && facts.layer_count == kLayers && facts.token_count == kTokens));
  CHECK((facts.next_position == kTokens && facts.restorable == CCD_RESTORABLE_WHOLE_ONLY));
  CHECK((facts.stream_count == 5 && facts.segment_count == 1 && facts.identity_count == 3));
  CHECK((facts.value_count == 4 * kTokens * kHeads * kHeadDim && facts.opaque_size == kOpaqueSize));
  const cachecard::MemorySource source(std::as_bytes(std::span(card.data)));
  auto reader = cachecard::CardReader::open(source);
  REQUIRE(reader);
  CHECK(std::equal(facts.root, facts.root + 16, reader->trailer().root.begin()));
  CHECK(ccd_card_get_facts(nullptr, &facts, nullptr) == CCD_INVALID_ARGUMENT);
  CHECK(ccd_card_get_facts(card.handle, nullptr, nullptr) == CCD_INVALID_ARGUMENT);
  facts.struct_size = sizeof(facts) - 1;
  CHECK(ccd_card_get_facts(card.handle, &facts, nullptr) == CCD_INVALID_ARGUMENT);
}

TEST_CASE("streams are found by number and by layer", "[c_api]") {
  const Card card(bytes());
  auto s = sized<ccd_stream>();
  REQUIRE(ccd_card_get_stream(card.handle, 1, &s, nullptr) == CCD_OK);
  CHECK((s.layer == 0 && s.stream == CCD_STREAM_VALUE && s.dtype == CCD_DTYPE_Q8_0));
  CHECK((s.hadamard_size == 64 && s.row_size == kHeads * kHeadDim / 32 * 34 && s.token_count == kTokens));
  REQUIRE(ccd_card_find_stream(card.handle, 1, CCD_STREAM_KEY, &s, nullptr) == CCD_OK);
  CHECK((s.layer == 1 && s.dtype == CCD_DTYPE_BF16 && s.rope_state == CCD_ROPE_AFTER));
  CHECK((s.rope_pairing == CCD_PAIRING_HALF_SPLIT && s.kv_head_count == kHeads && s.head_dim == kHeadDim));
  REQUIRE(ccd_card_get_stream(card.handle, 4, &s, nullptr) == CCD_OK);
  CHECK((s.stream == CCD_STREAM_OPAQUE && s.opaque_size == kOpaqueSize && s.row_size == 0));
  CHECK(ccd_card_get_stream(card.handle, 5, &s, nullptr) == CCD_INVALID_ARGUMENT);
  CHECK(ccd_card_get_stream(card.handle, 0, nullptr, nullptr) == CCD_INVALID_ARGUMENT);
  CHECK(ccd_card_get_stream(nullptr, 0, &s, nullptr) == CCD_INVALID_ARGUMENT);
  CHECK(ccd_card_find_stream(card.handle, 3, CCD_STREAM_KEY, &s, nullptr) == CCD_INVALID_ARGUMENT);
  CHECK(ccd_card_find_stream(card.handle, 0, 256, &s, nullptr) == CCD_INVALID_ARGUMENT);
  CHECK(ccd_card_find_stream(nullptr, 0, 0, &s, nullptr) == CCD_INVALID_ARGUMENT);
  CHECK(ccd_card_find_stream(card.handle, 0, 0, nullptr, nullptr) == CCD_INVALID_ARGUMENT);
}

TEST_CASE("open refuses NULL, unknown flags and half an allocator", "[c_api]") {
  const std::string data = bytes();
  ccd_card* card = nullptr;
  CHECK(ccd_open_bytes(data.data(), data.size(), nullptr, nullptr, nullptr) == CCD_INVALID_ARGUMENT);
  CHECK(ccd_open_bytes(nullptr, 5, nullptr, &card, nullptr) == CCD_INVALID_ARGUMENT);
  CHECK(ccd_open_file(nullptr, nullptr, &card, nullptr) == CCD_INVALID_ARGUMENT);
  CHECK(ccd_open_callbacks(nullptr, nullptr, &card, nullptr) == CCD_INVALID_ARGUMENT);
  auto source = sized<ccd_source>();
  CHECK(ccd_open_callbacks(&source, nullptr, &card, nullptr) == CCD_INVALID_ARGUMENT);
  auto options = sized<ccd_open_options>();
  options.flags = 2;
  CHECK(open_status(data, &options) == CCD_INVALID_ARGUMENT);
  options = sized<ccd_open_options>();
  options.allocator.allocate = [](void*, std::size_t, std::size_t) -> void* { return nullptr; };
  CHECK(open_status(data, &options) == CCD_INVALID_ARGUMENT);
  ccd_close(nullptr);
}

TEST_CASE("open reports damage with code, offset and field", "[c_api]") {
  const std::string data = bytes();
  ccd_error error;
  CHECK(open_status("", nullptr, &error) == CCD_TRUNCATED);
  CHECK(open_status(data.substr(0, data.size() - 1)) != CCD_OK);
  std::string wrong = data;
  wrong[0] = 'X';
  CHECK(open_status(wrong, nullptr, &error) == CCD_BAD_MAGIC);
  CHECK((error.code == CCD_BAD_MAGIC && error.offset == 0));
  CHECK(std::string(error.field) == "prologue.magic");
  CHECK(std::string(error.message).find("bad_magic at offset 0, prologue.magic") == 0);
  ccd_card* card = nullptr;
  CHECK(ccd_open_file("/nonexistent/card", nullptr, &card, &error) == CCD_IO);
  CHECK(ccd_open_file("/tmp", nullptr, &card, &error) == CCD_IO);
}

TEST_CASE("limits bound what a card may ask for", "[c_api]") {
  const std::string data = bytes();
  auto limits = sized<ccd_limits>();
  auto options = sized<ccd_open_options>();
  options.limits = &limits;
  CHECK(open_status(data, &options) == CCD_OK);
  limits.token_count = kTokens - 1;
  CHECK(open_status(data, &options) == CCD_LIMIT_EXCEEDED);
  CHECK(ccd_verify_bytes(data.data(), data.size(), 0, &options, nullptr, nullptr) == CCD_LIMIT_EXCEEDED);
  limits = sized<ccd_limits>();
  limits.stream_count = 4;
  CHECK(open_status(data, &options) == CCD_LIMIT_EXCEEDED);
  limits = sized<ccd_limits>();
  limits.struct_size = 8;
  CHECK(open_status(data, &options) == CCD_INVALID_ARGUMENT);
}

TEST_CASE("a read_at that fails ends the call with its status", "[c_api]") {
  FailingSource source{bytes()};
  const ccd_source callbacks = source.source();
  ccd_card* card = nullptr;
  for (int reads = 0; reads < 5; ++reads) {
    source.reads_left = reads;
    ccd_error error;
    CHECK(ccd_open_callbacks(&callbacks, nullptr, &card, &error) == CCD_IO);
    CHECK(std::string(error.message) == "io: read_at returned 60");
  }
  source.reads_left = 0;
  source.failure = CCD_INTERRUPTED;
  CHECK(ccd_open_callbacks(&callbacks, nullptr, &card, nullptr) == CCD_INTERRUPTED);
  CHECK(ccd_verify_callbacks(&callbacks, 0, nullptr, nullptr, nullptr) == CCD_INTERRUPTED);
  source.failure = 4711;
  CHECK(ccd_open_callbacks(&callbacks, nullptr, &card, nullptr) == CCD_IO);

  source.reads_left = 1000;
  REQUIRE(ccd_open_callbacks(&callbacks, nullptr, &card, nullptr) == CCD_OK);
  source.reads_left = 0;
  source.failure = CCD_IO;
  std::vector<float> out(kTokens * kHeads * kHeadDim);
  CHECK(ccd_card_read_rows(card, 0, 0, 0, 1, out.data(), 256, nullptr) == CCD_IO);
  CHECK(ccd_card_get_token_ids(card, reinterpret_cast<std::int32_t*>(out.data()), kTokens, nullptr,
                               nullptr) == CCD_IO);
  auto facts = sized<ccd_facts>();
  CHECK(ccd_card_get_facts(card, &facts, nullptr) == CCD_IO);
  ccd_close(card);
}

TEST_CASE("structs of a newer caller are taken where what is new is zero", "[c_api]") {
  struct Newer {
    ccd_open_options known;
    std::uint64_t added;
  } newer{};
  newer.known.struct_size = sizeof(newer);
  const std::string data = bytes();
  CHECK(open_status(data, &newer.known) == CCD_OK);
  newer.added = 1;
  CHECK(open_status(data, &newer.known) == CCD_INVALID_ARGUMENT);
  newer.known.struct_size = 4;
  CHECK(open_status(data, &newer.known) == CCD_INVALID_ARGUMENT);

  struct NewerFacts {
    ccd_facts known;
    std::uint64_t added;
  } facts{};
  facts.known.struct_size = sizeof(facts);
  facts.added = 42;
  const Card card(data);
  REQUIRE(ccd_card_get_facts(card.handle, &facts.known, nullptr) == CCD_OK);
  CHECK((facts.known.struct_size == sizeof(ccd_facts) && facts.added == 42));
}

TEST_CASE("verify reads every byte, from bytes, a file and callbacks", "[c_api]") {
  std::string data = bytes(CCD_COMPRESSOR_SPLIT_ZSTD);
  const auto path = temporary("verify.card");
  std::ofstream(path, std::ios::binary) << data;
  auto report = sized<ccd_verify_report>();
  CHECK(ccd_verify_bytes(data.data(), data.size(), CCD_VERIFY_DECODE, nullptr, &report, nullptr) == CCD_OK);
  CHECK((report.file_size == data.size() && report.skipped_sections == 0 && report.frame_count > 25));
  CHECK(ccd_verify_file(path.c_str(), 0, nullptr, nullptr, nullptr) == CCD_OK);
  CHECK(ccd_verify_bytes(data.data(), data.size(), 2, nullptr, nullptr, nullptr) == CCD_INVALID_ARGUMENT);
  CHECK(ccd_verify_bytes(nullptr, 1, 0, nullptr, nullptr, nullptr) == CCD_INVALID_ARGUMENT);
  CHECK(ccd_verify_file(nullptr, 0, nullptr, nullptr, nullptr) == CCD_INVALID_ARGUMENT);
  CHECK(ccd_verify_callbacks(nullptr, 0, nullptr, nullptr, nullptr) == CCD_INVALID_ARGUMENT);
  report.struct_size = 0;
  CHECK(ccd_verify_bytes(data.data(), data.size(), 0, nullptr, &report, nullptr) == CCD_INVALID_ARGUMENT);
  CHECK(ccd_verify_file("/nonexistent/card", 0, nullptr, nullptr, nullptr) == CCD_IO);
  std::filesystem::remove(path);

  FailingSource source{bytes()};
  source.data[first_chunk(source.data)] ^= 1;
  const ccd_source callbacks = source.source();
  ccd_error error;
  CHECK(ccd_verify_callbacks(&callbacks, 0, nullptr, nullptr, &error) == CCD_CHECKSUM_MISMATCH);
  CHECK(error.offset <= first_chunk(bytes()));
  CHECK(open_status(source.data) == CCD_OK);
}

TEST_CASE("a long message is cut between characters", "[c_api]") {
  const Card card(bytes());
  std::string umlauts;
  for (int i = 0; i < 200; ++i) umlauts += "\xC3\xBC";
  for (const std::string& name : {umlauts, "y" + umlauts}) {
    const char* allow[] = {name.c_str()};
    ccd_error error;
    std::memset(&error, 0x55, sizeof(error));
    CHECK(ccd_card_match(card.handle, nullptr, 0, allow, 1, nullptr, 0, nullptr, &error) ==
          CCD_INVALID_ARGUMENT);
    const std::string message = error.message;
    CHECK(message.size() >= 254);
    CHECK(message.size() <= 255);
    CHECK(static_cast<unsigned char>(message.back()) == 0xBC);
    CHECK(error.message[255] == '\0');
  }
}
