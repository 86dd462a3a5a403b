// What a live injection refuses, and that the context is then as it was: every byte that libllama saves of
// it.
#include <catch2/catch.hpp>
#include <fstream>

#include "live_session.hpp"

using namespace cachecard;
using namespace cachecard::llama_live;
using namespace cachecard::llama_live::test;

namespace {

constexpr std::size_t kTokens = 120;

const LiveCard& story_card() {
  static const auto card = [] {
    Session session;
    const Tokens tokens = story(session, kTokens);
    session.decode(tokens);
    return captured(session, tokens);
  }();
  return *card;
}

/// A context with something in it, and what libllama saved of that.
struct Occupied {
  Session session;
  std::vector<Bytes> before;

  explicit Occupied(const SessionOptions& options = {}, std::size_t first = 40, std::size_t second = 0)
      : session(options) {
    Tokens tokens = story(session, first);
    tokens[0] = 17;
    session.decode(tokens);
    if (second > 0) session.decode(story(session, second), 0, 1);
    for (std::uint32_t i = 0; i < options.sequences; ++i) {
      before.push_back(session.state(static_cast<llama_seq_id>(i)));
    }
  }

  /// The error of an injection that must fail; checks that nothing changed.
  Error refusal(const CardReader& card, LiveInjectOptions options = {}) {
    return refusal(card, session.live(), session.facts(), std::move(options));
  }
  Error refusal(const CardReader& card, const LiveContext& live, const llama_cpp::ModelFacts& facts,
                LiveInjectOptions options = {}) {
    const auto report = inject(card, live, facts, 0, options);
    REQUIRE_FALSE(report);
    for (std::size_t i = 0; i < before.size(); ++i) {
      CHECK((session.state(static_cast<llama_seq_id>(i)) == before[i]));
    }
    return report.error();
  }
};

LiveInjectOptions replacing() {
  LiveInjectOptions options;
  options.replace = true;
  return options;
}

}  // namespace

TEST_CASE("an occupied sequence is not replaced unasked", "[runtime]") {
  Occupied receiver;
  const Error error = receiver.refusal(*story_card());
  CHECK(error.code == ErrorCode::kTargetBusy);
  CHECK(error.detail.find("sequence 0 holds 40 positions") != std::string::npos);
}

TEST_CASE("a context that is too small is refused before it is touched", "[runtime]") {
  Session sender;
  const Tokens tokens = story(sender, 256);
  sender.decode(tokens);
  const auto card = captured(sender, tokens);
  SessionOptions small;
  small.context = 256;
  Occupied receiver(small);
  const Error error = receiver.refusal(**card, replacing());
  CHECK(error.code == ErrorCode::kTargetTooSmall);
  CHECK(error.detail.find("holds 256 tokens, the card needs 256 and one to go on") != std::string::npos);
  LiveInjectOptions prefix = replacing();
  prefix.token_count = 255;
  injected(**card, receiver.session, prefix);
}

TEST_CASE("what was there is put back where other sequences hold the cells", "[runtime]") {
  SessionOptions shared;
  shared.context = 256;
  shared.sequences = 2;
  Occupied receiver(shared, 60, 170);
  const Error error = receiver.refusal(*story_card(), replacing());
  CHECK(error.code == ErrorCode::kTargetTooSmall);
  CHECK(error.detail.find("other sequences hold up to 170 of the context's 256 cells") != std::string::npos);
  // It goes on as one that nobody touched.
  Occupied untouched(shared, 60, 170);
  CHECK((receiver.session.decode({5}, 60) == untouched.session.decode({5}, 60)));
}

TEST_CASE("params of another context are noticed, and what was there is put back", "[runtime]") {
  for (const std::uint32_t sequences : {1u, 2u}) {
    SessionOptions options;
    options.sequences = sequences;
    Occupied receiver(options);
    LiveContext wrong = receiver.session.live();
    wrong.params.type_k = GGML_TYPE_Q8_0;
    const Error error = receiver.refusal(*story_card(), wrong, receiver.session.facts(), replacing());
    CHECK(error.code == ErrorCode::kGeometryMismatch);
  }
}

TEST_CASE("no room for the copy is a refusal", "[runtime]") {
  Occupied receiver;
  LiveInjectOptions options = replacing();
  options.copy_limit_bytes = 100'000;
  const Error error = receiver.refusal(*story_card(), options);
  CHECK(error.code == ErrorCode::kOutOfMemory);
  CHECK(error.detail.find("allowed are 100000") != std::string::npos);
}

TEST_CASE("a damaged card changes nothing, wherever the damage is", "[runtime]") {
  Occupied receiver;
  const CardReader& good = *story_card();
  LiveCard damaged;
  for (const auto& [type, segment] :
       {std::pair{SectionType::kChunk, 0u}, std::pair{SectionType::kTokenIds, 0u},
        std::pair{SectionType::kProvenance, kNoSegment}}) {
    const auto frame = good.find(type, segment);
    REQUIRE(frame);
    damaged.sink.bytes() = const_cast<LiveCard&>(story_card()).sink.bytes();
    damaged.sink.bytes()[good.frames()[*frame].offset + 128] ^= std::byte{1};
    damaged.open();
    CHECK(receiver.refusal(*damaged, replacing()).code == ErrorCode::kChecksumMismatch);
  }
}

TEST_CASE("an interrupted injection changes nothing", "[runtime]") {
  Occupied receiver;
  LiveInjectOptions options = replacing();
  int calls = 0;
  options.progress = [&calls](std::uint64_t, std::uint64_t) { return ++calls < 20; };
  CHECK(receiver.refusal(*story_card(), options).code == ErrorCode::kInterrupted);
}

TEST_CASE("another RoPE base of the context is another model", "[runtime]") {
  SessionOptions options;
  options.rope_freq_base = 10'000.0f;
  Occupied receiver(options);
  const Error error = receiver.refusal(*story_card(), replacing());
  CHECK(error.code == ErrorCode::kModelMismatch);
  CHECK(error.field.find("rope_base") != std::string::npos);
  // The model's own base said aloud is no override.
  options.rope_freq_base = 100'000.0f;
  Session same(options);
  injected(*story_card(), same);
}

TEST_CASE("another model is refused, and so is a file that is not the one that runs", "[runtime]") {
  SessionOptions options;
  options.model = model_path("tiny_llama");
  Session other(options);
  const auto refused = inject(*story_card(), other.live(), other.facts(), 0);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == ErrorCode::kModelMismatch);
  Session session;
  const auto facts = live_facts(session.live(), {model_path("tiny_llama"), "none", ""});
  REQUIRE_FALSE(facts);
  CHECK(facts.error().code == ErrorCode::kModelMismatch);
  CHECK(facts.error().detail.find("it is not the file that runs") != std::string::npos);
}

TEST_CASE("without its file a model's weights are unknown, which is said and overridden by name",
          "[runtime]") {
  Occupied receiver;
  const auto facts = live_facts(receiver.session.live(), {"", "none", ""});
  REQUIRE(facts);
  CHECK(facts->kv_head_count == receiver.session.facts().kv_head_count);
  CHECK(facts->identity.f64(IdentityField::kRopeBase) == 100'000.0);
  const Error error = receiver.refusal(*story_card(), receiver.session.live(), *facts, replacing());
  CHECK(error.code == ErrorCode::kIdentityUnknown);
  CHECK(error.field.find("weights_digest") != std::string::npos);
  SessionOptions sliding;
  sliding.model = model_path("tiny_gemma3");
  Session pair(sliding);
  const auto unknown = live_facts(pair.live(), {"", "none", ""});
  REQUIRE_FALSE(unknown);
  CHECK(unknown.error().code == ErrorCode::kIdentityUnknown);
}

TEST_CASE("positions move only with a RoPE table, and only where they exist", "[runtime]") {
  Occupied receiver;
  Session sender;
  llama_cpp::ModelFacts facts = sender.facts();
  facts.rope_table.reset();
  const Tokens tokens = story(sender, 30);
  sender.decode(tokens);
  LiveCard without;
  LiveCaptureOptions capturing;
  capturing.token_ids = tokens;
  REQUIRE(capture(sender.live(), facts, 0, without.sink, capturing));
  without.open();
  LiveInjectOptions options = replacing();
  options.position_shift = 5;
  const Error error = receiver.refusal(*without, options);
  CHECK(error.code == ErrorCode::kNotRestorable);
  CHECK(error.field == "rope_table");
  options.position_shift = -1;
  CHECK(receiver.refusal(*story_card(), options).code == ErrorCode::kInvalidArgument);
  options.position_shift = 0x7FFFFFFF;
  CHECK(receiver.refusal(*story_card(), options).code == ErrorCode::kInvalidArgument);
}

TEST_CASE("a capture refuses what is not there", "[runtime]") {
  Session session;
  MemorySink sink;
  CHECK_FALSE(capture(session.live(), session.facts(), 0, sink, {}));
  CHECK_FALSE(capture(session.live(), session.facts(), 1, sink, {}));
  const Tokens tokens = story(session, 20);
  session.decode(tokens);
  LiveCaptureOptions options;
  options.token_ids = std::span(tokens).first(19);
  const auto fewer = capture(session.live(), session.facts(), 0, sink, options);
  REQUIRE_FALSE(fewer);
  CHECK(fewer.error().detail == "19 for a sequence of 20 cells");
  // Without ids the card is made, and no context takes it.
  LiveCard unnamed;
  REQUIRE(capture(session.live(), session.facts(), 0, unnamed.sink, {}));
  unnamed.open();
  Occupied receiver;
  CHECK(receiver.refusal(*unnamed, replacing()).code == ErrorCode::kTokensUnknown);
}
