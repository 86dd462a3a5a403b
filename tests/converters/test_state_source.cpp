#include <catch2/catch.hpp>
#include <cstring>

#include "state_fixture.hpp"

using namespace cachecard;
using namespace cachecard::llama_cpp;
using namespace cachecard::llama_cpp::test;

namespace {

std::string source_refusal(const HandState& state, const ModelFacts& model,
                           const ParseOptions& options = {}) {
  const auto card = make_card(state.bytes(), model, options);
  return card ? std::string() : card.error().message();
}

/// Rows of a stream as the card keeps them.
Bytes rows_of(const CardReader& card, std::size_t stream) {
  const StreamRecord& record = card.header().streams[stream];
  Bytes rows(record.token_count * row_bytes(record, static_cast<DType>(record.dtype)));
  Bytes scratch(card.scratch_bytes(stream));
  REQUIRE(card.read_rows(stream, record.first_token, record.token_count, rows, scratch));
  return rows;
}

}  // namespace

TEST_CASE("every convertible state comes back byte for byte", "[converters]") {
  std::size_t made = 0;
  for (const auto& facts : fixture_facts()) {
    const Bytes bytes = fixture_bytes(facts);
    for (const std::uint64_t chunk_tokens : {2048u, 3u}) {
      CardOptions options;
      options.chunk_tokens = chunk_tokens;
      auto card = make_card(bytes, fixture_model(facts), fixture_options(facts), options);
      INFO(facts.file << ": " << (card ? "" : card.error().message()));
      REQUIRE(bool(card) == (facts.convertible != "refused"));
      if (!card) continue;
      MemorySink back;
      const auto restored = restore_source(***card, back);
      INFO((restored ? "" : restored.error().message()));
      REQUIRE(restored);
      CHECK((back.bytes() == bytes));
      CHECK(restored->file_size == bytes.size());
      MemorySource again((*card)->bytes);
      SourceStream stream(again);
      CHECK(verify(stream, {.decode = true, .limits = {}, .parallel = {}}));
      ++made;
    }
  }
  CHECK(made > 90);
}

TEST_CASE("V order and cell order at the source do not show in a card", "[converters]") {
  const auto plain = fixture_card("llama_f16.seq");
  const auto transposed = fixture_card("llama_f16_v_transposed.seq");
  const auto streams = fixture_card("llama_f16_4_streams.seq");
  // Both were computed by the same graph up to flash attention, so layer 0 has the same values.
  CHECK((rows_of(**plain, 0) == rows_of(**transposed, 0)));
  CHECK((rows_of(**plain, 1) == rows_of(**transposed, 1)));
  for (std::size_t i = 0; i < 4; ++i) CHECK((rows_of(**plain, i) == rows_of(**streams, i)));
}

TEST_CASE("tokens of a fragmented state come in position order", "[converters]") {
  const auto card = fixture_card("llama_f16_fragmented.seq");
  const auto runs = (*card)->positions();
  REQUIRE(runs);
  CHECK(expand_positions(*runs) == std::vector<std::int32_t>{0, 1, 2, 3, 4, 5, 6, 7});
  const auto layout = (*card)->source_layout();
  REQUIRE(layout);
  REQUIRE(*layout);
  CHECK((*layout)->order_runs.size() > 1);
  // The first five tokens are those of llama_f16.seq: the same ids, so the same V in layer 0.
  const auto start = fixture_card("llama_f16.seq");
  const Bytes all = rows_of(**card, 1);
  const Bytes first = rows_of(**start, 1);
  CHECK(std::equal(first.begin(), first.end(), all.begin()));
}

TEST_CASE("a sliding card says from where it can be restored", "[converters]") {
  const auto card = fixture_card("gemma3_f16.seq");
  const CardHeader& header = (*card)->header();
  CHECK(header.restorable == Restorable::kFromCount);
  CHECK(header.restorable_from == 59);  // window 16 holds 44..59: to go on at 59 it needs 44..58
  std::size_t sliding = 0;
  for (const auto& stream : header.streams) {
    if (stream.window == 0) {
      CHECK(stream.layer == 5);
      CHECK(stream.first_token == 0);
      continue;
    }
    ++sliding;
    CHECK(stream.window == 16);
    CHECK(stream.first_token == 44);
    CHECK(stream.token_count == 16);
  }
  CHECK(sliding == 10);
  CHECK((*fixture_card("gemma3_f16.session"))->header().restorable == Restorable::kAnyPrefix);
}

TEST_CASE("latent rows have an unrotated and a rotated part", "[converters]") {
  const auto card = fixture_card("server_deepseek2_q8_0.slot");
  const CardHeader& header = (*card)->header();
  REQUIRE(header.streams.size() == 2);
  CHECK(header.streams[0].stream == static_cast<std::uint8_t>(StreamKind::kLatent));
  CHECK(header.streams[0].hadamard_size == 1);  // n_rot is 128 in the file; the graph does not rotate
  REQUIRE(header.streams[0].part_count == 2);
  CHECK(header.parts[0].rotated == 0);
  CHECK(header.parts[1].rotated == 1);
  CHECK(header.parts[1].offset == header.parts[0].width);
}

TEST_CASE("recurrent and hybrid state is opaque and whole", "[converters]") {
  for (const char* file : {"mamba.seq", "server_lfm2_f16.slot"}) {
    const auto card = fixture_card(file);
    const CardHeader& header = (*card)->header();
    INFO(file);
    REQUIRE(header.streams.size() == 1);
    CHECK(header.streams[0].stream == static_cast<std::uint8_t>(StreamKind::kOpaque));
    CHECK(header.restorable == Restorable::kWholeOnly);
    CHECK(header.token_count == fixture(file).token_count);
  }
}

TEST_CASE("rotation comes from the file, or must be said", "[converters]") {
  CHECK((*fixture_card("llama_q8_0.seq"))->header().streams[0].hadamard_size == 64);
  CHECK((*fixture_card("llama_q8_0_unrotated.seq"))->header().streams[0].hadamard_size == 1);
  CHECK((*fixture_card("server_llama_q8_0.slot"))->header().streams[1].hadamard_size == 64);
  const auto mixed = fixture_card("llama_q8_0_v_f16.seq");
  CHECK((*mixed)->header().streams[0].hadamard_size == 64);
  CHECK((*mixed)->header().streams[1].hadamard_size == 1);
  const FixtureFacts facts = fixture("llama_q8_0.seq");
  const auto unsaid = make_card(fixture_bytes(facts), fixture_model(facts));
  REQUIRE_FALSE(unsaid);
  CHECK(unsaid.error().detail.find("--rotated") != std::string::npos);
  // Heads of 32 are never rotated: nothing to say.
  const FixtureFacts narrow = fixture("llama_hd32_q8_0.seq");
  CHECK(make_card(fixture_bytes(narrow), fixture_model(narrow)));
}

TEST_CASE("an odd state is marked, with a note", "[converters]") {
  const auto flags_and_notes = [](const HandState& state) {
    const ModelFacts model = small_model();
    const Bytes bytes = state.bytes();
    const auto parsed = parse_state(MemorySource(bytes), &model);
    REQUIRE(parsed);
    const auto notes = state_notes(*parsed, model);
    const auto card = make_card(bytes, model);
    REQUIRE(card);
    return std::pair((**card)->header().flags, notes.empty() ? std::string() : notes.front());
  };
  CHECK(flags_and_notes({}).first == 0);
  HandState fewer;
  fewer.words = {7, 8};
  CHECK(flags_and_notes(fewer).first == kHeaderTokensUnknown);
  CHECK(flags_and_notes(fewer).second.find("2 token ids for 3 cells") != std::string::npos);
  HandState more;
  more.words = {7, 8, 9, 10};
  CHECK(flags_and_notes(more).first == 0);
  HandState hole;
  hole.positions = {0, 1, 5};
  CHECK(flags_and_notes(hole).first == kHeaderNotAPrefix);
  HandState later;
  later.positions = {1, 2, 3};
  CHECK(flags_and_notes(later).first == kHeaderNotAPrefix);
  for (const std::vector<std::int32_t>& odd : {std::vector<std::int32_t>{0, 1, 1}, {-1, 0, 1}}) {
    HandState state;
    state.positions = odd;
    const auto [flags, note] = flags_and_notes(state);
    CHECK(flags == kHeaderNotAPrefix);
    CHECK(note.find("opaque") != std::string::npos);
    const auto card = make_card(state.bytes(), small_model());
    REQUIRE(card);
    CHECK((**card)->header().restorable == Restorable::kWholeOnly);
  }
}

TEST_CASE("a longer token list gives the card its first tokens", "[converters]") {
  HandState state;
  state.words = {7, 8, 9, 10};
  const auto card = make_card(state.bytes(), small_model());
  REQUIRE(card);
  const auto tokens = (**card)->token_ids();
  REQUIRE(tokens);
  CHECK(*tokens == std::vector<std::int32_t>{7, 8, 9});
}

TEST_CASE("a state that does not fit the model is refused with both sizes", "[converters]") {
  CHECK(source_refusal({}, small_model(2)).find("the cache has 1 layers, the model 2") != std::string::npos);
  ModelFacts wide = small_model();
  wide.kv_head_count = {3};
  CHECK(source_refusal({}, wide).find("rows of 256 bytes; the model's 3 heads of 64 as f16 take 384") !=
        std::string::npos);
  HandState empty;
  empty.positions.clear();
  Bytes bytes = HandState().bytes();
  bytes.resize(12 + 12 + 8);
  std::memset(bytes.data() + 28, 0, 4);
  const auto none = make_card(bytes, small_model());
  REQUIRE_FALSE(none);
  CHECK(none.error().detail.find("empty") != std::string::npos);
}

TEST_CASE("an M-RoPE state that does not start at 0 is not a prefix", "[converters]") {
  const FixtureFacts facts = fixture("qwen2vl_f16.seq");
  const ModelFacts model = fixture_model(facts);
  Bytes bytes = fixture_bytes(facts);
  const auto parsed = parse_state(MemorySource(bytes), &model);
  REQUIRE(parsed);
  for (std::size_t cell = 0; cell < facts.cells; ++cell) {
    const auto position = static_cast<std::int32_t>(cell + 4);
    std::memcpy(bytes.data() + parsed->caches[0].offset + 8 + cell * 24, &position, 4);
  }
  const auto card = make_card(bytes, model);
  REQUIRE(card);
  CHECK((**card)->header().flags == kHeaderNotAPrefix);
}

TEST_CASE("an image's cells keep their order and only come back whole", "[converters]") {
  const auto card = fixture_card("qwen2vl_f16_image.seq");
  const auto runs = (*card)->positions();
  REQUIRE(runs);
  CHECK(expand_positions(*runs) == std::vector<std::int32_t>{0, 1, 2, 3, 4, 5, 5, 5, 5, 5, 5, 8, 9});
  CHECK((*card)->header().next_position == 10);
  CHECK((*card)->header().flags == 0);
}
