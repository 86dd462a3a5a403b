#include <catch2/catch.hpp>
#include <cstring>
#include <random>

#include "state_fixture.hpp"

using namespace cachecard;
using namespace cachecard::llama_cpp;
using namespace cachecard::llama_cpp::test;

namespace {

Result<StateFile> parse(const Bytes& bytes, const ModelFacts* model, const ParseOptions& options = {}) {
  return parse_state(MemorySource(bytes), model, options);
}

/// The refusal of a hand-built state, or empty where it was taken.
std::string refusal(const HandState& state, const ModelFacts& model = small_model()) {
  const auto parsed = parse(state.bytes(), &model);
  return parsed ? std::string() : parsed.error().message();
}

}  // namespace

TEST_CASE("parse accounts for every byte of every real state", "[converters]") {
  const auto all = fixture_facts();
  REQUIRE(all.size() > 50);
  for (const auto& facts : all) {
    INFO(facts.file);
    const ModelFacts model = fixture_model(facts);
    const Bytes bytes = fixture_bytes(facts);
    CHECK(looks_like_state(bytes));
    const auto parsed = parse(bytes, &model, fixture_options(facts));
    const bool several = facts.file.find("2_sequences") != std::string::npos;
    if (several || facts.module == "swa_only") {
      CHECK_FALSE(parsed);
      continue;
    }
    INFO((parsed ? "" : parsed.error().message()));
    REQUIRE(parsed);
    CHECK(parsed->opaque == (facts.convertible == "opaque"));
    if (parsed->version != 0 || facts.cells != 0) {  // an empty memory blob fits both layouts
      CHECK((parsed->layout == StateLayout::k11_4) == (facts.layout == "11/4"));
    }
    CHECK(parsed->token_ids.size() == facts.token_count);
    CHECK(parsed->file_size == bytes.size());
    if (parsed->opaque) continue;
    CHECK(parsed->caches[0].cell_count == facts.cells);
    CHECK((parsed->payload_end < bytes.size()) == (facts.checkpoints > 0));
  }
}

TEST_CASE("parse without a model takes plain attention only", "[converters]") {
  for (const auto& facts : fixture_facts()) {
    INFO(facts.file);
    const auto parsed = parse(fixture_bytes(facts), nullptr, fixture_options(facts));
    // A window cache alone looks like a plain one: only the model shows what is missing.
    const bool plain = facts.model.rfind("tiny_llama", 0) == 0 || facts.module == "swa_only";
    const bool one = facts.file.find("2_sequences") == std::string::npos;
    CHECK(bool(parsed) == (plain && one));
    if (!parsed) CHECK(parsed.error().detail.find("--model") != std::string::npos);
  }
}

TEST_CASE("parse refuses layout 9/2 by name", "[converters]") {
  HandState state;
  state.version = 2;
  CHECK(refusal(state).find("layout 9/2") != std::string::npos);
  state.magic = 0x6767736E;
  state.version = 9;
  CHECK(refusal(state).find("re-save with a newer llama.cpp") != std::string::npos);
  state.version = 12;
  CHECK(refusal(state).find("found 12, known are 10 and 11") != std::string::npos);
}

TEST_CASE("parse refuses several sequences by name", "[converters]") {
  HandState state;
  REQUIRE(refusal(state).empty());
  state.sequences = {0, 1, 0};
  CHECK(refusal(state).find("several sequences") != std::string::npos);
  for (const char* file : {"llama_f16_2_sequences.session", "llama_f16_2_sequences_4_streams.ctx"}) {
    const FixtureFacts facts = fixture(file);
    const ModelFacts model = fixture_model(facts);
    const auto parsed = parse(fixture_bytes(facts), &model);
    REQUIRE_FALSE(parsed);
    CHECK(parsed.error().code == ErrorCode::kForeignInput);
    CHECK(parsed.error().detail.find("several sequences") != std::string::npos);
  }
}

TEST_CASE("parse says which number is wrong", "[converters]") {
  const auto with = [](auto change) {
    HandState state;
    change(state);
    return refusal(state);
  };
  CHECK(with([](HandState& s) { s.sequence_count = 0; }).find("cell.n_seq_id") != std::string::npos);
  CHECK(with([](HandState& s) { s.sequences = {-1, -1, -1}; }).find("cell.n_seq_id") != std::string::npos);
  CHECK(with([](HandState& s) { s.v_trans = 2; }).find("v_trans") != std::string::npos);
  CHECK(with([](HandState& s) { s.n_layer = 0; }).find("n_layer") != std::string::npos);
  CHECK(with([](HandState& s) { s.n_layer = 513; }).find("n_layer") != std::string::npos);
  CHECK(with([](HandState& s) { s.n_rot_k = 63; }).find("n_rot_k") != std::string::npos);
  CHECK(with([](HandState& s) { s.n_rot_v = 96; }).find("n_rot_v") != std::string::npos);
  CHECK(with([](HandState& s) { s.type = 12; }).find("no ggml type") != std::string::npos);
  CHECK(with([](HandState& s) { s.row_bytes = 0; }).find("row_size") != std::string::npos);
  CHECK(with([](HandState& s) { s.type = 8; }).find("whole blocks of q8_0") != std::string::npos);
  CHECK(with([](HandState& s) { s.n_stream = 0; }).find("n_stream") != std::string::npos);
  CHECK(with([](HandState& s) { s.n_stream = 257; }).find("n_stream") != std::string::npos);
  CHECK(with([](HandState& s) { s.words = {-1, 2, 0, 0}; }).find("blob_version") != std::string::npos);
  CHECK(with([](HandState& s) { s.words = {-1, 1, 9, 0}; }).find("ends early") != std::string::npos);
  CHECK(with([](HandState& s) { s.words = {-1, 1, 1, 5, 0, 0}; }).find("after its end") != std::string::npos);
  CHECK(with([](HandState& s) { s.words = {-1, 1, 1, 5, 1, 0, 0}; }).find("empty media") !=
        std::string::npos);
}

TEST_CASE("parse bounds counts by the bytes that are left", "[converters]") {
  const ModelFacts model = small_model();
  Bytes bytes = HandState().bytes();
  const std::size_t cell_count_at = 12 + 12 + 4;
  const std::uint32_t huge = 0xFFFFFFFFu;
  std::memcpy(bytes.data() + cell_count_at, &huge, 4);
  auto parsed = parse(bytes, &model);
  REQUIRE_FALSE(parsed);
  CHECK(parsed.error().code == ErrorCode::kTruncated);
  bytes = HandState().bytes();
  std::memcpy(bytes.data() + 8, &huge, 4);  // n_tokens
  parsed = parse(bytes, &model);
  REQUIRE_FALSE(parsed);
  CHECK(parsed.error().code == ErrorCode::kTruncated);
}

TEST_CASE("parse keeps trailing bytes of a sequence file with a model only", "[converters]") {
  const ModelFacts model = small_model();
  HandState state;
  state.trailing.resize(100);
  const auto parsed = parse(state.bytes(), &model);
  REQUIRE(parsed);
  CHECK(parsed->file_size - parsed->payload_end == 100);
  CHECK_FALSE(parse(state.bytes(), nullptr));
  state.magic = 0x6767736E;  // a session's arch string is missing
  CHECK_FALSE(parse(state.bytes(), &model));
}

TEST_CASE("bytes after any other container are refused", "[converters]") {
  for (const char* file : {"llama_f16.session", "llama_f16.mem", "llama_f16.ctx"}) {
    const FixtureFacts facts = fixture(file);
    const ModelFacts model = fixture_model(facts);
    Bytes bytes = fixture_bytes(facts);
    bytes.resize(bytes.size() + 4);
    const auto parsed = parse(bytes, &model);
    INFO(file);
    REQUIRE_FALSE(parsed);
    CHECK(parsed.error().detail.find("bytes after the state") != std::string::npos);
  }
}

TEST_CASE("parse finds the layout of memory blobs by trial and takes --layout", "[converters]") {
  const FixtureFacts facts = fixture("llama_f16.mem");
  const ModelFacts model = fixture_model(facts);
  const Bytes bytes = fixture_bytes(facts);
  const auto found = parse(bytes, &model);
  REQUIRE(found);
  CHECK(found->layout == StateLayout::k10_3);
  ParseOptions wrong;
  wrong.layout = StateLayout::k11_4;
  CHECK_FALSE(parse(bytes, &model, wrong));
}

TEST_CASE("parse refuses a state of another architecture than the model's", "[converters]") {
  const FixtureFacts facts = fixture("gemma3_f16.session");
  const ModelFacts model = small_model();
  const auto parsed = parse(fixture_bytes(facts), &model);
  REQUIRE_FALSE(parsed);
  CHECK(parsed.error().detail.find("gemma3") != std::string::npos);
}

TEST_CASE("every truncation of a state is refused", "[converters]") {
  // Opaque payloads have no length of their own; a tail after a sequence's payload may be anything.
  for (const char* file :
       {"llama_f16.seq", "llama_f16.session", "llama_f16.mem", "llama_f16.ctx", "llama_q8_0.seq",
        "llama_f32_v_transposed.seq", "llama_f16_4_streams.seq", "qwen2vl_f16.seq", "server_llama_q8_0.slot",
        "server_gemma3_f16.slot", "deepseek2.seq"}) {
    const FixtureFacts facts = fixture(file);
    const ModelFacts model = fixture_model(facts);
    const Bytes bytes = fixture_bytes(facts);
    std::size_t taken = 0;
    for (std::size_t size = 0; size < bytes.size(); ++size) {
      const Bytes cut(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size));
      if (parse(cut, &model, fixture_options(facts))) ++taken;
    }
    INFO(file);
    CHECK(taken == 0);
  }
}

TEST_CASE("a truncated checkpoint is refused, a missing one is not noticed", "[converters]") {
  const FixtureFacts facts = fixture("server_gemma3_f16_checkpoints.slot");
  const ModelFacts model = fixture_model(facts);
  const Bytes bytes = fixture_bytes(facts);
  const auto whole = parse(bytes, &model);
  REQUIRE(whole);
  for (std::size_t size = whole->payload_end + 8; size < bytes.size(); size += 97) {
    const Bytes cut(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size));
    CHECK_FALSE(parse(cut, &model));
  }
  CHECK(parse({bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(whole->payload_end)}, &model));
}

TEST_CASE("mutated states never break the reader", "[converters]") {
  constexpr std::uint32_t kSeed = 20261124;
  std::mt19937 random(kSeed);
  std::size_t taken = 0;
  std::size_t refused = 0;
  for (const auto& facts : fixture_facts()) {
    const ModelFacts model = fixture_model(facts);
    const Bytes original = fixture_bytes(facts);
    const std::size_t head = std::min<std::size_t>(original.size(), 512);
    for (int round = 0; round < 200; ++round) {
      Bytes bytes = original;
      for (int i = 0; i < 3; ++i) {
        const std::size_t range = round % 2 == 0 ? head : bytes.size();
        constexpr std::uint32_t kOdd[] = {0, 1, 2, 0x7F, 0x80, 0xFF};
        bytes[random() % range] = static_cast<std::byte>(kOdd[random() % 6]);
      }
      if (random() % 4 == 0) bytes.resize(random() % bytes.size());
      INFO(facts.file << " round " << round << " seed " << kSeed);
      auto card = make_card(bytes, model, fixture_options(facts));
      if (!card) {
        CHECK(card.error().code != ErrorCode::kInternal);
        ++refused;
        continue;
      }
      ++taken;
      MemorySink back;
      REQUIRE(restore_source(**(*card), back));
      REQUIRE((back.bytes() == bytes));
    }
  }
  CHECK(taken > 100);
  CHECK(refused > 100);
}
