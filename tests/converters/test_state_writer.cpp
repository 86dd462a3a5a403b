#include <catch2/catch.hpp>
#include <cstring>
#include <thread>

#include "llama_cpp/state_plan.hpp"
#include "state_fixture.hpp"

using namespace cachecard;
using namespace cachecard::llama_cpp;
using namespace cachecard::llama_cpp::test;

TEST_CASE("a card written for its own source's template gives that file", "[converters]") {
  std::size_t same = 0;
  for (const char* file :
       {"llama_f32.seq", "llama_bf16.seq", "llama_q4_1.seq", "llama_q8_0_v_f16_transposed.seq",
        "llama_f16_v_transposed.seq", "llama_f16.session", "llama_f16_4_streams.seq", "gemma3_f16.seq",
        "qwen2vl_f16.seq", "deepseek2.seq", "mamba.seq", "server_llama_f16.slot", "server_llama_q8_0.slot",
        "server_llama_f16_4_slots.slot", "server_gemma3_f16.slot", "server_qwen2vl_f16.slot",
        "server_deepseek2_q8_0.slot", "server_lfm2_f16.slot"}) {
    const auto card = fixture_card(file);
    const auto bytes = write(**card, template_of_fixture(file));
    INFO(file << ": " << (bytes ? "" : bytes.error().message()));
    REQUIRE(bytes);
    CHECK((*bytes == fixture_bytes(fixture(file))));
    ++same;
  }
  CHECK(same == 18);
}

TEST_CASE("template_for asks for what the card's source had", "[converters]") {
  for (const char* file : {"llama_q8_0.seq", "llama_f16_v_transposed.seq", "llama_f16_4_streams.seq",
                           "gemma3_f16.seq", "qwen2vl_f16.seq"}) {
    const auto card = fixture_card(file);
    const auto target = template_for(**card, StateLayout::k10_3, LlamaContainer::kSequenceFile);
    REQUIRE(target);
    const auto bytes = write(**card, *target);
    INFO(file << ": " << (bytes ? "" : bytes.error().message()));
    REQUIRE(bytes);
    CHECK((*bytes == fixture_bytes(fixture(file))));
  }
  const auto card = fixture_card("server_deepseek2_q8_0.slot");
  const auto target = template_for(**card, StateLayout::k11_4, LlamaContainer::kSequenceFile);
  REQUIRE(target);
  CHECK(target->server_blob);
  CHECK(target->caches[0].n_rot_k == 128);
}

TEST_CASE("layouts, containers, V order and streams convert into each other", "[converters]") {
  const auto card = fixture_card("llama_f16.seq");
  for (const LlamaContainer container : {LlamaContainer::kSessionFile, LlamaContainer::kWholeContext,
                                         LlamaContainer::kSequenceFile, LlamaContainer::kSequenceMemory}) {
    for (const StateLayout layout : {StateLayout::k10_3, StateLayout::k11_4}) {
      StateTemplate target = template_of_fixture("llama_f16.seq");
      target.container = container;
      target.layout = layout;
      target.server_blob = true;
      target.caches[0].v_trans = true;
      target.caches[0].n_stream = 4;
      target.stream_index = 3;
      const auto bytes = write(**card, target);
      REQUIRE(bytes);
      const ModelFacts model = fixture_model(fixture("llama_f16.seq"));
      const auto parsed = parse_state(MemorySource(*bytes), &model);
      INFO((parsed ? "" : parsed.error().message()));
      REQUIRE(parsed);
      CHECK(parsed->layout == layout);
      CHECK(parsed->container == container);
      CHECK(parsed->server_blob == (container == LlamaContainer::kSequenceFile));
      CHECK(parsed->caches[0].v_trans);
      CHECK(parsed->caches[0].stream_index == 3);
      CHECK(parsed->payload_end == bytes->size());
      // And back: the second card must hold the first one's rows.
      auto back = make_card(*bytes, model);
      REQUIRE(back);
      if (parsed->token_ids.empty()) continue;
      const auto again = write(***back, template_of_fixture("llama_f16.seq"));
      REQUIRE(again);
      CHECK((*again == fixture_bytes(fixture("llama_f16.seq"))));
    }
  }
}

TEST_CASE("a prefix is the state that llama.cpp would have saved then", "[converters]") {
  const auto card = fixture_card("server_llama_f16.slot");
  const StateTemplate target = template_of_fixture("server_llama_f16_1_token.slot");
  StateWriteOptions options;
  options.token_count = 1;
  const auto bytes = write(**card, target, options);
  REQUIRE(bytes);
  CHECK((bytes->size() == fixture_bytes(fixture("server_llama_f16_1_token.slot")).size()));
  options.token_count = 7;
  MemorySink sink;
  const auto report = write_state(**card, target, sink, options);
  REQUIRE(report);
  CHECK(report->next_position == 7);
  CHECK(report->notes.size() == 1);
}

TEST_CASE("a prefix of a sliding card keeps its window and no more", "[converters]") {
  const auto session = fixture_card("gemma3_f16.session");  // its window cache holds all 60
  const StateTemplate target = template_of_fixture("gemma3_f16.seq");
  const ModelFacts model = fixture_model(fixture("gemma3_f16.seq"));
  const auto whole = write(**session, target);
  REQUIRE(whole);
  const auto parsed_whole = parse_state(MemorySource(*whole), &model);
  REQUIRE(parsed_whole);
  // Two more than the window, without which llama-server would read the prompt again.
  CHECK(parsed_whole->caches[1].positions.front() == 42);
  CHECK(parsed_whole->caches[1].cell_count == 18);
  StateWriteOptions options;
  options.token_count = 30;
  const auto bytes = write(**session, target, options);
  REQUIRE(bytes);
  const auto parsed = parse_state(MemorySource(*bytes), &model);
  REQUIRE(parsed);
  CHECK(parsed->caches[0].cell_count == 30);
  CHECK(parsed->caches[1].positions.front() == 12);
  CHECK(parsed->caches[1].positions.back() == 29);
  const auto narrow = fixture_card("gemma3_f16.seq");
  CHECK(refusal(**narrow, target, 59).empty());
  CHECK(refusal(**narrow, target, 58).find("complete from 59 tokens on") != std::string::npos);
}

TEST_CASE("context checkpoints of a slot are taken over where they fit", "[converters]") {
  const char* file = "server_gemma3_f16_checkpoints.slot";
  const auto card = fixture_card(file);
  const StateTemplate target = template_of_fixture(file);
  const auto bytes = write(**card, target);
  REQUIRE(bytes);
  CHECK((*bytes == fixture_bytes(fixture(file))));
  StateWriteOptions options;
  options.token_count = 57;
  MemorySink sink;
  const auto report = write_state(**card, target, sink, options);
  REQUIRE(report);
  CHECK(report->notes.back().find("context checkpoints") != std::string::npos);
  const ModelFacts model = fixture_model(fixture(file));
  const auto parsed = parse_state(MemorySource(sink.bytes()), &model);
  REQUIRE(parsed);
  CHECK(parsed->payload_end < parsed->file_size);
  // Another V order, another layout: no checkpoint of that shape.
  StateTemplate other = target;
  other.caches[1].v_trans = true;
  const auto transposed = write(**card, other);
  REQUIRE(transposed);
  CHECK(transposed->size() == fixture_bytes(fixture("server_gemma3_f16.slot")).size());
  MemorySink bare;
  const auto without = write_state(**fixture_card("server_gemma3_f16.slot"), target, bare);
  REQUIRE(without);
  CHECK(without->notes.back().find("read the whole prompt again") != std::string::npos);
}

TEST_CASE("floats convert among themselves and say how much was lost", "[converters]") {
  const auto card = fixture_card("llama_f32.seq");
  StateTemplate target = template_of_fixture("llama_f32.seq");
  set_type(target.caches[0], DType::kF16, 256);
  for (const bool transposed : {false, true}) {
    target.caches[0].v_trans = transposed;
    MemorySink sink;
    const auto report = write_state(**card, target, sink);
    REQUIRE(report);
    CHECK(report->max_conversion_loss > 0.0);
    CHECK(report->max_conversion_loss < 0.01);
    REQUIRE(report->notes.size() == 1);
    CHECK(report->notes[0].find("f32 was converted to f16") != std::string::npos);
    // f16 to f32 and back loses nothing.
    const ModelFacts model = fixture_model(fixture("llama_f32.seq"));
    auto half = make_card(sink.bytes(), model);
    REQUIRE(half);
    StateTemplate wide = template_of_fixture("llama_f32.seq");
    MemorySink widened;
    const auto up = write_state(***half, wide, widened);
    REQUIRE(up);
    CHECK(up->max_conversion_loss == 0.0);
    auto full = make_card(widened.bytes(), model);
    REQUIRE(full);
    const auto down = write(***full, target);
    REQUIRE(down);
    CHECK((*down == sink.bytes()));
  }
}

TEST_CASE("non-finite values are found in every type", "[converters]") {
  struct Case {
    const char* file;
    std::uint16_t bits;
  };
  for (const Case c : {Case{"llama_f16.seq", 0x7C00},
                       {"llama_bf16.seq", 0x7FC0},
                       {"llama_q8_0.seq", 0xFC00},
                       {"llama_q5_1.seq", 0x7E00},
                       {"llama_iq4_nl.seq", 0x7C01}}) {
    const FixtureFacts facts = fixture(c.file);
    const ModelFacts model = fixture_model(facts);
    Bytes bytes = fixture_bytes(facts);
    const auto parsed = parse_state(MemorySource(bytes), &model, fixture_options(facts));
    REQUIRE(parsed);
    const TensorBlock& tensor = parsed->caches[0].values[1];
    std::memcpy(bytes.data() + tensor.data_offset + 3 * tensor.row_bytes, &c.bits, 2);
    auto card = make_card(bytes, model, fixture_options(facts));
    REQUIRE(card);
    const StateTemplate target = template_of_fixture(c.file);
    INFO(c.file);
    CHECK(refusal(***card, target).find("value of layer 1, token 3") != std::string::npos);
    StateWriteOptions options;
    options.allow_nonfinite = true;
    MemorySink sink;
    const auto report = write_state(***card, target, sink, options);
    REQUIRE(report);
    CHECK(report->nonfinite_values >= 1);
    CHECK((sink.bytes() == bytes));
  }
}

TEST_CASE("threads and progress change nothing in the bytes", "[converters]") {
  CardOptions card_options;
  card_options.chunk_tokens = 4;
  const auto card = fixture_card("server_gemma3_f16.slot", card_options);
  const StateTemplate target = template_of_fixture("server_gemma3_f16.slot");
  StateWriteOptions options;
  options.parallel.width = 4;
  options.parallel.run = [](void*, std::size_t count, void (*task)(void*, std::size_t), void* context) {
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < count; ++i) threads.emplace_back(task, context, i);
    for (auto& thread : threads) thread.join();
  };
  std::uint64_t last = 0;
  std::uint64_t all = 0;
  options.progress = [&](std::uint64_t done, std::uint64_t total) {
    CHECK(done > last);
    last = done;
    all = total;
    return true;
  };
  const auto bytes = write(**card, target, options);
  REQUIRE(bytes);
  CHECK((*bytes == fixture_bytes(fixture("server_gemma3_f16.slot"))));
  CHECK(last == all);
  options.progress = [](std::uint64_t, std::uint64_t) { return false; };
  const auto stopped = write(**card, target, options);
  REQUIRE_FALSE(stopped);
  CHECK(stopped.error().code == ErrorCode::kInterrupted);
}

TEST_CASE("restore refuses a card without a source layout", "[converters]") {
  CardOptions options;
  options.source_layout = false;
  const auto card = fixture_card("llama_f16.seq", options);
  MemorySink sink;
  const auto report = restore_source(**card, sink);
  REQUIRE_FALSE(report);
  CHECK(report.error().code == ErrorCode::kInvalidArgument);
}
