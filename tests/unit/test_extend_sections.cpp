#include <algorithm>
#include <catch2/catch.hpp>
#include <memory>

#include "cachecard/edit.hpp"
#include "plan_source.hpp"

using namespace cachecard;
using namespace cachecard::tests;

namespace {

std::string verdict(std::span<const std::byte> card) {
  const MemorySource source(card);
  SourceStream stream(source);
  const auto report = verify(stream, {.decode = true, .limits = {}, .parallel = {}});
  return report ? "ok" : report.error().message();
}

struct OpenCard {
  explicit OpenCard(std::vector<std::byte> card)
      : bytes(std::move(card)), source(std::make_unique<MemorySource>(bytes)), reader(CardReader::open(*source).value()) {}
  std::vector<std::byte> bytes;  // a move keeps them where the source found them
  std::unique_ptr<MemorySource> source;
  CardReader reader;
};

struct Extended {
  OpenCard card;
  ExtendReport report;
};

Result<Extended> extended(const CardReader& base, const CacheSource& state, std::uint64_t chunk_tokens = 2048) {
  ExtendOptions options;
  options.card = options_of_base(base);
  options.card.chunk_tokens = chunk_tokens;
  MemorySink sink;
  auto report = extend_card(base, state, sink, options);
  if (!report) return report.error();
  return Extended{OpenCard(std::move(sink.bytes())), *std::move(report)};
}

std::string section_text(const CardReader& card, SectionType type, std::uint32_t segment) {
  const auto index = card.find(type, segment);
  if (!index) return {};
  const auto payload = card.read_section(*index).value();
  return {reinterpret_cast<const char*>(payload.data()), payload.size()};
}

/// One layer with all tokens, one with a window of 8 that still holds some.
fixtures::CardPlan window_plan(DType dtype, std::uint64_t tokens, std::uint64_t first_held) {
  fixtures::CardPlan plan = fixtures::make_plan("extend_window", "", tokens, "", "");
  fixtures::add_layer(plan, 0, dtype, {.head_dim = 32});
  for (const StreamKind kind : {StreamKind::kKey, StreamKind::kValue}) {
    fixtures::add_stream(plan, 1, kind, dtype, {.head_dim = 32});
    auto& bytes = plan.stream_bytes.back();
    const std::size_t row = bytes.size() / tokens;
    bytes.erase(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(first_held * row));
    fixtures::limit_span(plan, first_held, tokens - first_held);
    plan.header.streams.back().window = 8;
  }
  plan.header.restorable = Restorable::kFromCount;
  plan.header.restorable_from = std::min(first_held + 7, tokens);
  return plan;
}

}  // namespace

TEST_CASE("text and media stay, text goes on; unknown sections stay where they may", "[unit]") {
  auto plan = fixtures::make_plan("extend_sections", "", 12, "", "");
  fixtures::add_layer(plan, 0, DType::kF16);
  auto base_plan = fixtures::prefix_of(plan, 8);
  base_plan.texts = {"Once upon"};
  base_plan.media = {fixtures::to_bytes("picture")};
  base_plan.optional_features = kFeatureText | kFeatureMedia | kFeatureCanary | kFeatureSourceLayout;
  FrameHeader unknown;
  unknown.section_type = 3000;
  FrameHeader safe = unknown;
  safe.section_type = 3001;
  safe.flags = kFrameCopySafe;
  FrameHeader safe_of_segment = safe;
  safe_of_segment.segment = 0;
  base_plan.last = {{make_frame(SectionType::kCanary), fixtures::to_bytes("c")},
                    {make_frame(SectionType::kProfileDigest), fixtures::to_bytes("p")},
                    {unknown, fixtures::to_bytes("u")},
                    {safe, fixtures::to_bytes("s")},
                    {safe_of_segment, fixtures::to_bytes("g")}};
  const OpenCard base(fixtures::build(base_plan).value());
  PlanSource state(plan);
  state.set_text("Once upon a time");
  const auto next = extended(base.reader, state);
  REQUIRE(next);
  CHECK(verdict(next->card.bytes) == "ok");
  CHECK(next->report.dropped == std::vector<std::string>{"canary", "unknown"});
  const CardReader& card = next->card.reader;
  CHECK(section_text(card, SectionType::kText, 0) == "Once upon");
  CHECK(section_text(card, SectionType::kText, 1) == " a time");
  CHECK(section_text(card, SectionType::kMedia, 0) == "picture");
  CHECK(section_text(card, SectionType::kProfileDigest, kNoSegment) == "p");
  CHECK(section_text(card, static_cast<SectionType>(3001), kNoSegment) == "s");
  CHECK(section_text(card, static_cast<SectionType>(3001), 0) == "g");
  CHECK_FALSE(card.find(static_cast<SectionType>(3000)));
  CHECK_FALSE(card.find(SectionType::kCanary));
  CHECK((card.prologue().optional_features & kFeatureCanary) == 0);

  state.set_text("Another beginning");  // does not go on from BASE's
  CHECK(section_text(extended(base.reader, state)->card.reader, SectionType::kText, 1).empty());
}

TEST_CASE("maps that another writer compressed are taken over as they stand", "[unit]") {
  auto plan = fixtures::make_plan("extend_maps", "", 600, "", "");
  fixtures::add_layer(plan, 0, DType::kF16);
  auto base_plan = fixtures::prefix_of(plan, 500);
  base_plan.entropy.emplace().bits = 9.0;
  for (std::size_t i = 0; i < 2 * 500; ++i) base_plan.entropy->token_offsets.push_back(static_cast<std::int8_t>(i % 3));
  const OpenCard whole(fixtures::build(base_plan).value());
  // The same card with its map under zstd.
  MemorySink sink;
  auto writer = CardWriter::create(sink, whole.reader.header(), whole.reader.prologue().required_features | kFeatureZstd, 0);
  REQUIRE(writer);
  std::uint64_t map_digest = 0;
  for (std::size_t i = 0; i + 2 < whole.reader.frames().size(); ++i) {
    FrameHeader frame = whole.reader.frames()[i];
    auto payload = whole.reader.read_section(i).value();
    if (frame.section_type == static_cast<std::uint16_t>(SectionType::kBitWidthMap)) {
      payload = encode_map(whole.reader.map(0).value());
      frame.compressor = static_cast<std::uint8_t>(Compressor::kZstd);
      auto map = writer->add(frame, payload);
      REQUIRE(map);
      REQUIRE(map->compressor != 0);
      map_digest = map->stored_digest;
      continue;
    }
    EncodedSection section;
    section.frame = frame;
    if (frame.map_digest != 0) section.frame.map_digest = map_digest;
    section.stored = payload;
    REQUIRE(writer->append(section));
  }
  REQUIRE(writer->finish());
  const OpenCard base(std::move(sink.bytes()));
  REQUIRE(verdict(base.bytes) == "ok");
  const auto next = extended(base.reader, PlanSource(plan));
  REQUIRE(next);
  CHECK(verdict(next->card.bytes) == "ok");
  CHECK(next->card.reader.frames()[*next->card.reader.find(SectionType::kBitWidthMap, 0)].stored_digest == map_digest);
}

TEST_CASE("a window moves on: chunks that it has left go, others stay whole", "[unit]") {
  for (DType dtype : {DType::kF16, DType::kQ8_0}) {
    auto whole = window_plan(dtype, 20, 6);
    whole.chunk_tokens = 4;  // of layer 1: 6-9, 10-13, 14-17, 18-19
    const OpenCard base(fixtures::build(whole).value());
    for (const auto& [tokens, held, first, from] :
         {std::tuple{26u, 15u, 14u, 21u}, std::tuple{40u, 30u, 30u, 37u}, std::tuple{24u, 2u, 6u, 13u}}) {
      INFO("tokens " << tokens << ", held from " << held);
      auto plan = window_plan(dtype, tokens, held);
      plan.token_ids = whole.token_ids;
      plan.token_ids.resize(tokens, 5);
      PlanSource state(plan);
      state.set_literals(fixtures::to_bytes("state"));
      const auto next = extended(base.reader, state);
      INFO((next ? "" : next.error().message()));
      REQUIRE(next);
      CHECK(verdict(next->card.bytes) == "ok");
      const StreamRecord& stream = next->card.reader.header().streams[2];
      CHECK(stream.first_token == first);
      CHECK(stream.first_token + stream.token_count == tokens);
      CHECK(next->card.reader.header().restorable == Restorable::kFromCount);
      CHECK(next->card.reader.header().restorable_from == from);
      // The file's own cells reach farther back than the card where BASE's window had left them.
      CHECK(next->card.reader.source_layout()->has_value() == (first <= held));
    }
  }
}

TEST_CASE("opaque state and source layout are STATE's", "[unit]") {
  auto plan = fixtures::make_plan("extend_opaque", "", 9, "", "");
  fixtures::add_layer(plan, 0, DType::kF16);
  fixtures::add_opaque(plan, 1, 300);
  auto base_plan = fixtures::prefix_of(plan, 6);
  base_plan.stream_bytes[2].resize(200);
  base_plan.header.streams[2].opaque_size = 200;
  PlanSource base_source(base_plan);
  base_source.set_literals(fixtures::to_bytes("old file"));
  const OpenCard base(written(base_source));
  for (const std::uint64_t tokens : {9u, 6u}) {  // with and without new tokens
    auto state_plan = fixtures::prefix_of(plan, tokens);
    state_plan.stream_bytes[2] = plan.stream_bytes[2];
    PlanSource state(state_plan);
    state.set_literals(fixtures::to_bytes("new file"));
    const auto next = extended(base.reader, state);
    REQUIRE(next);
    CHECK(verdict(next->card.bytes) == "ok");
    const CardReader& card = next->card.reader;
    std::vector<std::byte> opaque(300);
    REQUIRE(card.read_opaque(2, 0, opaque));
    CHECK(opaque == plan.stream_bytes[2]);
    const auto literals = card.read_section(*card.find(SectionType::kSourceBytes)).value();
    CHECK(literals == fixtures::to_bytes("new file"));
    CHECK(next->report.dropped.empty());
  }
  auto without = fixtures::make_plan("extend_opaque", "", 9, "", "");
  fixtures::add_layer(without, 0, DType::kF16);
  without.header.layer_count = 2;
  const auto next = extended(base.reader, PlanSource(without));
  REQUIRE(next);
  CHECK(verdict(next->card.bytes) == "ok");
  CHECK(next->report.dropped == std::vector<std::string>{"source_layout", "opaque state"});
  CHECK(next->card.reader.map(0)->base.size() == 2);
}

TEST_CASE("cards of several hops are trimmed like others", "[unit]") {
  for (const bool entropy : {false, true}) {
    auto plan = fixtures::make_plan("extend_then_trim", "", 90, "", "");
    fixtures::add_layer(plan, 0, DType::kF16, {.kv_head_count = 2, .head_dim = 64});
    fixtures::add_rope_table(plan, RopePairing::kHalfSplit, 0, 64);
    plan.hops = {50, 70};
    if (entropy) plan.entropy.emplace().bits = 10.0;
    else plan.planes.emplace();
    const OpenCard card(fixtures::build(plan).value());
    REQUIRE(card.reader.header().segments.size() == 3);
    for (const auto& [first, end] : {std::pair{0u, 60u}, std::pair{50u, 90u}, std::pair{70u, 80u}, std::pair{0u, 70u}}) {
      INFO((entropy ? "entropy " : "planes ") << first << ":" << end);
      TrimOptions options;
      options.first_token = first;
      options.end_token = end;
      MemorySink sink;
      REQUIRE(trim(card.reader, sink, options));
      const OpenCard cut(std::move(sink.bytes()));
      REQUIRE(verdict(cut.bytes) == "ok");
      for (std::size_t s = 0; s < 2; ++s) {
        const auto all = decode_all(card.reader, s);
        const auto kept = decode_all(cut.reader, s);
        REQUIRE(kept.size() == (end - first) * 128);
        CHECK(std::equal(kept.begin(), kept.end(), all.begin() + first * 128));
      }
    }
  }
}
