#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <memory>
#include <set>

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

/// A card in memory, open.
struct OpenCard {
  explicit OpenCard(std::vector<std::byte> card)
      : bytes(std::move(card)), source(std::make_unique<MemorySource>(bytes)), reader(CardReader::open(*source).value()) {}
  std::vector<std::byte> bytes;  // a move keeps them where the source found them
  std::unique_ptr<MemorySource> source;
  CardReader reader;
};

fixtures::CardPlan plan_of(std::string_view codec, std::uint64_t tokens) {
  fixtures::CardPlan plan = fixtures::make_plan("extend_test_" + std::string(codec), "", tokens, "", "");
  const bool blocks = codec == "ggml";
  for (std::uint32_t layer = 0; layer < 2; ++layer) {
    fixtures::add_layer(plan, layer, blocks ? DType::kQ8_0 : DType::kF16,
                        {.kv_head_count = 2, .head_dim = 64, .hadamard_size = blocks ? 64u : 1u});
  }
  if (!blocks) fixtures::add_rope_table(plan, RopePairing::kHalfSplit, 0, 64);
  for (std::size_t t = 0; t < tokens; ++t) plan.token_ids[t] = static_cast<std::int32_t>(t * t % 11);
  return plan;
}

CardOptions options_of(std::string_view codec) {
  CardOptions options;
  options.chunk_tokens = 32;
  if (codec == "planes") options.planes.emplace();
  if (codec == "entropy") options.entropy.emplace().bits = 8.0;
  if (codec == "zstd") options.compressor = Compressor::kSplitZstd;
  return options;
}

OpenCard base_card(const fixtures::CardPlan& plan, std::uint64_t tokens, std::string_view codec) {
  return OpenCard(written(PlanSource(fixtures::prefix_of(plan, tokens)), options_of(codec)));
}

struct Extended {
  OpenCard card;
  ExtendReport report;
};

Result<Extended> extended(const CardReader& base, const CacheSource& state, ExtendOptions options) {
  MemorySink sink;
  auto report = extend_card(base, state, sink, options);
  if (!report) return report.error();
  return Extended{OpenCard(std::move(sink.bytes())), *std::move(report)};
}

ExtendOptions like(const CardReader& base) {
  ExtendOptions options;
  options.card = options_of_base(base);
  options.card.chunk_tokens = 32;
  return options;
}

std::vector<std::byte> rows_of(const CardReader& card, std::size_t stream, std::uint64_t first, std::uint64_t count) {
  const StreamRecord& record = card.header().streams[stream];
  std::vector<std::byte> rows(count * row_bytes(record, static_cast<DType>(record.dtype)));
  std::vector<std::byte> scratch(card.scratch_bytes(stream));
  REQUIRE(card.read_rows(stream, first, count, rows, scratch));
  return rows;
}

std::vector<std::byte> rows_of(const CacheSource& state, std::size_t stream, std::uint64_t first, std::uint64_t count) {
  const StreamRecord& record = state.header().streams[stream];
  std::vector<std::byte> rows(count * row_bytes(record, static_cast<DType>(record.dtype)));
  REQUIRE(state.read_rows(stream, first, count, rows));
  return rows;
}

std::multiset<std::uint64_t> payloads(const CardReader& card, std::uint64_t end) {
  std::multiset<std::uint64_t> found;
  for (const FrameHeader& frame : card.frames()) {
    const bool chunk = frame.section_type == static_cast<std::uint16_t>(SectionType::kChunk);
    if (chunk && frame.first_token + frame.token_count <= end) found.insert(frame.stored_digest);
  }
  return found;
}

std::size_t count_frames(const CardReader& card, SectionType type) {
  return static_cast<std::size_t>(std::count_if(card.frames().begin(), card.frames().end(), [&](const FrameHeader& f) {
    return f.section_type == static_cast<std::uint16_t>(type);
  }));
}

float half(std::span<const std::byte> rows, std::size_t i) {
  std::uint16_t bits;
  std::memcpy(&bits, rows.data() + 2 * i, 2);
  const int exponent = bits >> 10 & 31;
  const double magnitude = exponent == 0 ? std::ldexp(bits & 1023, -24) : std::ldexp(1024 + (bits & 1023), exponent - 25);
  return static_cast<float>((bits & 0x8000) != 0 ? -magnitude : magnitude);
}

Error refusal(const CardReader& base, const CacheSource& state, ExtendOptions options) {
  auto result = extended(base, state, std::move(options));
  REQUIRE_FALSE(result);
  return result.error();
}
Error refusal(const CardReader& base, const fixtures::CardPlan& state) { return refusal(base, PlanSource(state), like(base)); }

}  // namespace

TEST_CASE("a hop keeps every inherited bit, and new tokens within their codec's error", "[unit]") {
  for (const std::string codec : {"raw", "zstd", "ggml", "planes", "entropy"}) {
    INFO(codec);
    const auto plan = plan_of(codec, 120);
    const PlanSource state(plan);
    const OpenCard base = base_card(plan, 90, codec);
    ExtendOptions options = like(base.reader);
    options.check = true;
    const auto next = extended(base.reader, state, options);
    REQUIRE(next);
    CHECK(verdict(next->card.bytes) == "ok");
    const CardReader& card = next->card.reader;
    CHECK(next->report.kept_tokens == 90);
    CHECK(next->report.encoded_tokens == 30);
    CHECK_FALSE(next->report.parting);
    CHECK(next->report.copied_chunks == 4 * 3);
    REQUIRE(card.header().segments.size() == 2);
    CHECK(card.header().segments[1].first_token == 90);
    CHECK(card.header().next_position == 120);
    CHECK(payloads(card, 90) == payloads(base.reader, 90));
    CHECK(card.provenance()->back().hop == 1);
    CHECK(card.provenance()->back().operation == ProvenanceOp::kExtend);
    CHECK(card.provenance()->back().parent_root == base.reader.trailer().root);
    for (std::size_t s = 0; s < 4; ++s) {
      CHECK(rows_of(card, s, 0, 90) == rows_of(base.reader, s, 0, 90));
      const auto got = rows_of(card, s, 90, 30);
      const auto wanted = rows_of(state, s, 90, 30);
      if (codec != "planes" && codec != "entropy") {
        CHECK(got == wanted);
        continue;
      }
      double error = 0.0;
      for (std::size_t i = 0; i < got.size() / 2; ++i) error += std::pow(double{half(got, i)} - half(wanted, i), 2);
      const double bound = card.squared_error_bound(card.chunks(s).back()).value();
      CHECK(bound > 0.0);
      CHECK(error <= bound * 1.01);
    }
  }
}

TEST_CASE("a hop of entropy names the lanes of its base, and keeps their steps", "[unit]") {
  const auto plan = plan_of("entropy", 160);
  const OpenCard base = base_card(plan, 90, "entropy");
  const auto first = extended(base.reader, PlanSource(fixtures::prefix_of(plan, 120)), like(base.reader));
  REQUIRE(first);
  const auto second = extended(first->card.reader, PlanSource(plan), like(first->card.reader));
  REQUIRE(second);
  CHECK(verdict(second->card.bytes) == "ok");
  CHECK(first->report.shared_lanes);
  CHECK(second->report.shared_lanes);
  CHECK(count_frames(second->card.reader, SectionType::kLanes) == 1);
  CHECK(count_frames(second->card.reader, SectionType::kRopeTable) == 1);
  CHECK(second->card.reader.provenance()->back().hop == 2);
  const auto per_token = [](const CardReader& card, std::size_t chunk) {
    const FrameHeader& frame = card.frames()[card.chunks(0)[chunk]];
    return card.squared_error_bound(card.chunks(0)[chunk]).value() / static_cast<double>(frame.token_count);
  };
  CHECK(per_token(second->card.reader, 1) == Approx(per_token(second->card.reader, 4)));

  // Others: where bits are asked for, and where BASE is shorter than what is new.
  ExtendOptions asked = like(base.reader);
  asked.bits_of_base = false;
  asked.card.entropy->bits = 14.0;
  const auto finer = extended(base.reader, PlanSource(plan), asked);
  REQUIRE(finer);
  CHECK_FALSE(finer->report.shared_lanes);
  CHECK(count_frames(finer->card.reader, SectionType::kLanes) == 2);
  const auto shared = extended(base.reader, PlanSource(plan), like(base.reader));
  REQUIRE(shared);
  CHECK(finer->report.added_bytes > shared->report.added_bytes * 5 / 4);
  const OpenCard small = base_card(plan, 40, "entropy");
  const auto longer = extended(small.reader, PlanSource(plan), like(small.reader));
  REQUIRE(longer);
  CHECK(verdict(longer->card.bytes) == "ok");
  CHECK_FALSE(longer->report.shared_lanes);
}

TEST_CASE("new tokens are shifted half way to BASE's mean offset, hop by hop; which of them count more stays", "[unit]") {
  const fixtures::CardPlan plan = plan_of("entropy", 360);
  for (const bool fixed : {false, true}) {
    OpenCard card = base_card(plan, 120, "entropy");
    for (const std::uint64_t end : {200u, 280u, 360u}) {
      const PlanSource state(fixtures::prefix_of(plan, end));
      ExtendOptions options = like(card.reader);
      options.card.entropy->fixed_offsets = fixed;
      const std::size_t uses = BitWidthMap::first_use(state.header(), state.header().streams.size());
      for (std::size_t i = 0; i < uses * end; ++i) options.card.entropy->token_offsets.push_back(i % 2 == 0 ? 5 : 1);
      auto next = extended(card.reader, state, options);
      REQUIRE(next);
      CHECK(next->report.shared_lanes);
      card = std::move(next->card);
      const auto map = card.reader.map(static_cast<std::uint32_t>(card.reader.header().segments.size() - 1)).value();
      const auto row = map.row(map.row_of[0]);
      CHECK(row[0] - row[1] == 4);
      CHECK(row[0] + row[1] == (fixed ? 6 : 2));
    }
  }
}

TEST_CASE("lanes that do not fit the new values are not shared", "[unit]") {
  auto plan = plan_of("entropy", 120);
  const OpenCard base = base_card(plan, 90, "entropy");
  for (std::size_t i = 90 * 256; i < plan.stream_bytes[0].size(); i += 2) {  // keys eight times as large
    const auto high = std::to_integer<unsigned>(plan.stream_bytes[0][i + 1]);
    if ((high & 0x7C) != 0) plan.stream_bytes[0][i + 1] = static_cast<std::byte>(high + 0x0C);
  }
  const auto next = extended(base.reader, PlanSource(plan), like(base.reader));
  REQUIRE(next);
  CHECK(verdict(next->card.bytes) == "ok");
  CHECK_FALSE(next->report.shared_lanes);
  for (const RawChunk& chunk : next->report.written.raw_chunks) FAIL_CHECK(name_of(chunk.reason));
}

TEST_CASE("where STATE leaves BASE, whole chunks before that are kept", "[unit]") {
  for (const std::string codec : {"raw", "ggml", "planes", "entropy"}) {
    auto plan = plan_of(codec, 110);
    const OpenCard base = base_card(plan, 100, codec);
    plan.token_ids[70] += 1;
    const auto next = extended(base.reader, PlanSource(plan), like(base.reader));
    INFO(codec << ": " << (next ? "" : next.error().message()));
    REQUIRE(next);
    CHECK(verdict(next->card.bytes) == "ok");
    REQUIRE(next->report.parting);
    CHECK(next->report.parting->token == 70);
    CHECK(next->report.parting->state_id == plan.token_ids[70]);
    CHECK(next->report.parting->base_id == plan.token_ids[70] - 1);
    CHECK(next->report.kept_tokens == 64);
    CHECK(next->report.encoded_tokens == 46);
    CHECK(next->report.copied_chunks == 4 * 2);
    CHECK(payloads(next->card.reader, 64) == payloads(base.reader, 64));
    CHECK(next->card.reader.token_ids().value() == plan.token_ids);
    for (std::size_t s = 0; s < 4; ++s) CHECK(rows_of(next->card.reader, s, 0, 64) == rows_of(base.reader, s, 0, 64));

    // Inside the first chunk nothing can be kept; another position parts as another id does.
    plan.token_ids[70] -= 1;
    for (std::size_t t = 5; t < plan.positions.size(); ++t) plan.positions[t] += 3;
    plan.header.next_position += 3;
    const auto again = extended(base.reader, PlanSource(plan), like(base.reader));
    REQUIRE(again);
    CHECK(verdict(again->card.bytes) == "ok");
    CHECK(again->report.parting->token == 5);
    CHECK(again->report.parting->state_position == 8);
    CHECK(again->report.kept_tokens == 0);
    CHECK(again->card.reader.header().segments.size() == 1);
    CHECK(again->card.reader.provenance()->back().hop == 1);
  }
}

TEST_CASE("a hop without new tokens only adds itself to the provenance", "[unit]") {
  for (const std::string codec : {"raw", "entropy"}) {
    const auto plan = plan_of(codec, 90);
    const OpenCard base = base_card(plan, 90, codec);
    const auto next = extended(base.reader, PlanSource(plan), like(base.reader));
    REQUIRE(next);
    CHECK(verdict(next->card.bytes) == "ok");
    CHECK(next->report.encoded_tokens == 0);
    CHECK(next->report.added_bytes == 0);
    CHECK(next->card.reader.header().segments.size() == 1);
    CHECK(next->card.reader.provenance()->back().hop == 1);
    CHECK(payloads(next->card.reader, 90) == payloads(base.reader, 90));
  }
}

TEST_CASE("what does not continue the card is refused", "[unit]") {
  const auto plan = plan_of("raw", 20);
  const OpenCard base = base_card(plan, 12, "raw");
  const Error shorter = refusal(base.reader, fixtures::prefix_of(plan, 8));
  CHECK(shorter.code == ErrorCode::kPositionMismatch);
  CHECK(shorter.detail.find("trim --tokens :8") != std::string::npos);
  auto other = plan;
  other.token_ids[0] += 7;
  const Error start = refusal(base.reader, other);
  CHECK(start.code == ErrorCode::kPositionMismatch);
  CHECK(start.detail.find("part at token 0: BASE has id 0 at position 0, STATE id 7") != std::string::npos);
  other = plan;
  other.header.identity.set_text(IdentityField::kArchitecture, "qwen2");
  CHECK(refusal(base.reader, other).code == ErrorCode::kModelMismatch);
  other = plan;
  other.token_ids.clear();
  other.header.flags |= kHeaderTokensUnknown;
  CHECK(refusal(base.reader, other).code == ErrorCode::kTokensUnknown);
  other = plan;
  other.header.flags |= kHeaderPartialLayers;
  CHECK(refusal(base.reader, other).code == ErrorCode::kPartialCard);
  other = plan;
  other.header.layer_count = 3;
  CHECK(refusal(base.reader, other).field == "header.layer_count");
  other = plan;
  other.header.streams.pop_back();
  CHECK(refusal(base.reader, other).field == "stream.stream");
  other = plan;
  other.rope_table->inverse_frequencies[3] *= 1.1;
  CHECK(refusal(base.reader, other).field == "rope_table");
  for (const auto& [field, change] : std::initializer_list<std::pair<std::string, void (*)(StreamRecord&)>>{
           {"stream.dtype", [](StreamRecord& s) { s.dtype = static_cast<std::uint8_t>(DType::kBf16); }},
           {"stream.kv_head_count", [](StreamRecord& s) { s.kv_head_count = 1; }},
           {"stream.head_dim", [](StreamRecord& s) { s.head_dim = 32; }},
           {"stream.window", [](StreamRecord& s) { s.window = 16; }},
           {"stream.rope_pairing", [](StreamRecord& s) { s.rope_pairing = 1; }}}) {
    other = plan;
    change(other.header.streams[2]);
    const Error error = refusal(base.reader, other);
    CHECK(error.code == ErrorCode::kGeometryMismatch);
    CHECK(error.field == field);
    CHECK(error.detail.find("layer 1 key") != std::string::npos);
  }
}

TEST_CASE("facts that one side lacks are refused, those that neither has are no obstacle", "[unit]") {
  auto plan = plan_of("raw", 20);
  plan.header.identity.set_text(IdentityField::kSourceId, "org/model");
  plan.header.identity.set_text(IdentityField::kModelName, "A model");
  const OpenCard base = base_card(plan, 12, "raw");
  CHECK(extended(base.reader, PlanSource(plan), like(base.reader)));
  auto state = plan;
  state.header.identity.set_text(IdentityField::kProducer, "somebody");
  state.header.identity.remove(IdentityField::kModelName);
  state.header.identity.set_digest(IdentityField::kWeightsDigest, Digest128{1});
  CHECK(refusal(base.reader, state).code == ErrorCode::kIdentityUnknown);
  ExtendOptions allowed = like(base.reader);
  allowed.allow = {"weights-unknown"};
  const auto next = extended(base.reader, PlanSource(state), allowed);
  REQUIRE(next);
  const Identity& identity = next->card.reader.header().identity;
  CHECK(identity.find(IdentityField::kWeightsDigest) == nullptr);  // BASE's tokens may be of other weights
  CHECK(identity.text(IdentityField::kSourceId) == "org/model");
  CHECK(identity.text(IdentityField::kProducer) == "somebody");
  CHECK(identity.text(IdentityField::kModelName) == "A model");
  state.header.identity.remove(IdentityField::kWeightsDigest);
  state.header.identity.set_text(IdentityField::kSourceId, "org/other");
  const Error error = refusal(base.reader, state);
  CHECK(error.code == ErrorCode::kIdentityUnknown);
  CHECK(error.detail.find("declared sources differ") != std::string::npos);
}

TEST_CASE("check compares inherited values, token by token, within the codec's error", "[unit]") {
  for (const std::string codec : {"raw", "ggml", "planes", "entropy"}) {
    INFO(codec);
    auto plan = plan_of(codec, 120);
    const OpenCard base = base_card(plan, 100, codec);
    ExtendOptions options = like(base.reader);
    options.check = true;
    CHECK(extended(base.reader, PlanSource(plan), options));
    // Layer 1's value of token 77 is another token's.
    const std::size_t row = plan.stream_bytes[3].size() / 120;
    std::copy_n(plan.stream_bytes[3].begin() + static_cast<std::ptrdiff_t>(20 * row), row,
                plan.stream_bytes[3].begin() + static_cast<std::ptrdiff_t>(77 * row));
    const Error error = refusal(base.reader, PlanSource(plan), options);
    CHECK(error.code == ErrorCode::kModelMismatch);
    CHECK(error.field == "values");
    CHECK(error.detail.find("layer 1 value, token 77:") != std::string::npos);
    CHECK(extended(base.reader, PlanSource(plan), like(base.reader)));
  }
}

TEST_CASE("tokens without an id are told apart by their values", "[unit]") {
  auto plan = plan_of("entropy", 120);
  for (std::size_t t = 40; t < 50; ++t) plan.token_ids[t] = -1;
  const OpenCard base = base_card(plan, 100, "entropy");
  const auto same = extended(base.reader, PlanSource(plan), like(base.reader));
  REQUIRE(same);
  CHECK(same->report.kept_tokens == 100);
  const std::size_t row = plan.stream_bytes[2].size() / 120;
  for (const std::size_t token : {45u, 60u}) {
    std::copy_n(plan.stream_bytes[2].begin() + static_cast<std::ptrdiff_t>(20 * row), row,
                plan.stream_bytes[2].begin() + static_cast<std::ptrdiff_t>(token * row));
  }
  const auto other = extended(base.reader, PlanSource(plan), like(base.reader));
  REQUIRE(other);
  REQUIRE(other->report.parting);
  CHECK(other->report.parting->token == 45);
  CHECK(other->report.kept_tokens == 32);
  CHECK(verdict(other->card.bytes) == "ok");
}
