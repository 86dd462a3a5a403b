#include <algorithm>
#include <catch2/catch.hpp>
#include <filesystem>
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

struct Trimmed {
  std::vector<std::byte> bytes;
  TrimReport report;
};

Result<Trimmed> trimmed(std::span<const std::byte> bytes, const TrimOptions& options) {
  const MemorySource source(bytes);
  const auto card = CardReader::open(source);
  if (!card) return card.error();
  MemorySink sink;
  auto report = trim(*card, sink, options);
  if (!report) return report.error();
  return Trimmed{std::move(sink.bytes()), std::move(*report)};
}

ErrorCode refusal(const fixtures::CardPlan& plan, const TrimOptions& options) {
  const auto result = trimmed(fixtures::build(plan).value(), options);
  return result ? ErrorCode::kOk : result.error().code;
}

TrimOptions tokens(std::uint64_t first, std::uint64_t end) {
  TrimOptions options;
  options.first_token = first;
  options.end_token = end;
  return options;
}

std::vector<std::byte> rows_of(const CardReader& card, std::size_t stream, std::uint64_t first,
                               std::uint64_t count) {
  const StreamRecord& record = card.header().streams[stream];
  std::vector<std::byte> rows(count * row_bytes(record, static_cast<DType>(record.dtype)));
  std::vector<std::byte> scratch(card.scratch_bytes(stream));
  const Status status = card.read_rows(stream, first, count, rows, scratch);
  REQUIRE(status);
  return rows;
}

}  // namespace

TEST_CASE("kept tokens keep their exact bits, ids and positions, for every cut", "[unit]") {
  for (DType dtype : {DType::kF16, DType::kQ8_0}) {
    const auto plan = two_segment_plan(dtype, 32);
    const auto bytes = fixtures::build(plan).value();
    const MemorySource whole_source(bytes);
    const auto whole = CardReader::open(whole_source);
    REQUIRE(whole);
    for (std::uint64_t first : {0u, 1u, 5u, 13u, 14u, 15u, 22u}) {
      for (std::uint64_t end : {first + 1, std::uint64_t{14}, std::uint64_t{19}, std::uint64_t{23}}) {
        if (end <= first) continue;
        INFO("tokens " << first << ":" << end);
        const auto cut = trimmed(bytes, tokens(first, end));
        REQUIRE(cut);
        REQUIRE(verdict(cut->bytes) == "ok");
        const MemorySource source(cut->bytes);
        const auto card = CardReader::open(source);
        REQUIRE(card);
        CHECK(card->header().token_count == end - first);
        CHECK(((card->header().flags & kHeaderNotAPrefix) != 0) == (first > 0));
        const auto ids = card->token_ids().value();
        CHECK(
            std::equal(ids.begin(), ids.end(), plan.token_ids.begin() + static_cast<std::ptrdiff_t>(first)));
        const auto positions = expand_positions(card->positions().value());
        CHECK(positions.front() == static_cast<std::int32_t>(first));
        CHECK(card->header().next_position == static_cast<std::int64_t>(end));
        for (std::size_t i = 0; i < 4; ++i)
          CHECK(rows_of(*card, i, 0, end - first) == rows_of(*whole, i, first, end - first));
      }
    }
  }
}

TEST_CASE("chunks that a cut does not touch are copied, payload for payload", "[unit]") {
  auto plan = two_segment_plan(DType::kF16);
  const auto bytes = fixtures::build(plan).value();
  const auto cut = trimmed(bytes, tokens(5, 21));  // of 5,5,4 and 5,4: one goes, one is cut, three stay
  REQUIRE(cut);
  CHECK(cut->report.copied_chunks == 4 * 3);
  CHECK(cut->report.cut_chunks == 4 * 1);
  std::set<std::uint64_t> before;
  const MemorySource source(bytes);
  const auto whole = CardReader::open(source);
  REQUIRE(whole);
  for (const FrameHeader& f : whole->frames()) before.insert(f.stored_digest);
  const MemorySource after_source(cut->bytes);
  const auto after = CardReader::open(after_source);
  REQUIRE(after);
  std::size_t same = 0;
  for (const FrameHeader& f : after->frames()) {
    const bool chunk = f.section_type == static_cast<std::uint16_t>(SectionType::kChunk);
    same += chunk && before.contains(f.stored_digest) ? 1 : 0;
  }
  CHECK(same == 12);
}

TEST_CASE("layers keep their numbers, and the card says that it is partial", "[unit]") {
  const auto plan = two_segment_plan(DType::kQ8_0, 32);
  const auto bytes = fixtures::build(plan).value();
  TrimOptions options;
  options.first_layer = 1;
  const auto cut = trimmed(bytes, options);
  REQUIRE(cut);
  REQUIRE(verdict(cut->bytes) == "ok");
  const MemorySource source(cut->bytes);
  const auto card = CardReader::open(source);
  REQUIRE(card);
  CHECK(card->header().streams.size() == 2);
  CHECK(card->header().streams[0].layer == 1);
  CHECK(card->header().layer_count == 2);
  CHECK((card->header().flags & kHeaderPartialLayers) != 0);
  CHECK(rows_of(*card, 0, 0, 23) == plan.stream_bytes[2]);
}

TEST_CASE("a cut of everything keeps everything", "[unit]") {
  const auto plan = two_segment_plan(DType::kF16);
  const auto bytes = fixtures::build(plan).value();
  const auto cut = trimmed(bytes, {});
  REQUIRE(cut);
  const MemorySource source(cut->bytes);
  const auto card = CardReader::open(source);
  REQUIRE(card);
  CHECK(card->header().flags == 0);
  CHECK(cut->report.cut_chunks == 0);
  CHECK(card->provenance()->back().operation == ProvenanceOp::kTrim);
  const MemorySource old(bytes);
  CHECK(card->provenance()->back().parent_root == CardReader::open(old)->trailer().root);
}

TEST_CASE("windows, widths of tokens and several segments are cut with the tokens", "[unit]") {
  fixtures::CardPlan plan = fixtures::make_plan("trim_window", "", 20, "", "");
  fixtures::add_stream(plan, 0, StreamKind::kKey, DType::kF16, {.head_dim = 4});
  fixtures::add_stream(plan, 1, StreamKind::kKey, DType::kF16, {.head_dim = 4});
  fixtures::limit_span(plan, 8, 12);
  fixtures::cut_segments(plan, {10, 10});
  plan.maps = {uniform_map(plan.header, 10), uniform_map(plan.header, 10)};
  plan.maps[0].rows[6] = 5;
  const auto cut = trimmed(fixtures::build(plan).value(), tokens(6, 18));
  REQUIRE(cut);
  REQUIRE(verdict(cut->bytes) == "ok");
  const MemorySource source(cut->bytes);
  const auto card = CardReader::open(source);
  REQUIRE(card);
  CHECK(card->header().streams[1].first_token == 2);
  CHECK(card->header().streams[1].token_count == 10);
  CHECK(card->map(0)->row(0)[0] == 5);
  CHECK(card->map(0)->row(0)[1] == 0);
}

TEST_CASE("what cannot be cut is refused", "[unit]") {
  auto plan = two_segment_plan(DType::kF16);
  CHECK(refusal(plan, tokens(5, 5)) == ErrorCode::kInvalidArgument);
  CHECK(refusal(plan, tokens(0, 24)) == ErrorCode::kInvalidArgument);
  TrimOptions layers;
  layers.first_layer = 2;
  CHECK(refusal(plan, layers) == ErrorCode::kInvalidArgument);
  plan.header.restorable = Restorable::kWholeOnly;
  CHECK(refusal(plan, tokens(0, 22)) == ErrorCode::kNotRestorable);
  CHECK(refusal(plan, tokens(0, 23)) == ErrorCode::kOk);
  plan.header.restorable = Restorable::kFromCount;
  plan.header.restorable_from = 20;
  CHECK(refusal(plan, tokens(0, 19)) == ErrorCode::kNotRestorable);
  CHECK(refusal(plan, tokens(0, 20)) == ErrorCode::kOk);
  fixtures::CardPlan opaque = fixtures::make_plan("trim_opaque", "", 3, "", "");
  fixtures::add_opaque(opaque, 0, 9);
  CHECK(refusal(opaque, tokens(0, 2)) == ErrorCode::kNotRestorable);
}

TEST_CASE("sections that a cut cannot keep are named; copy-safe ones stay", "[unit]") {
  auto plan = two_segment_plan(DType::kF16);
  plan.texts = {"a", "b"};
  plan.optional_features = kFeatureText | kFeatureCanary;
  FrameHeader unknown;
  unknown.section_type = 3000;
  FrameHeader safe = unknown;
  safe.section_type = 3001;
  safe.flags = kFrameCopySafe;
  plan.last = {{make_frame(SectionType::kCanary), fixtures::to_bytes("c")},
               {make_frame(SectionType::kProfileDigest), fixtures::to_bytes("p")},
               {unknown, fixtures::to_bytes("u")},
               {safe, fixtures::to_bytes("s")}};
  const auto cut = trimmed(fixtures::build(plan).value(), tokens(0, 9));
  REQUIRE(cut);
  REQUIRE(verdict(cut->bytes) == "ok");
  const auto& dropped = cut->report.dropped;
  const auto names = std::set<std::string>(dropped.begin(), dropped.end());
  CHECK(names == std::set<std::string>{"text", "canary", "unknown"});
  const MemorySource source(cut->bytes);
  const auto card = CardReader::open(source);
  REQUIRE(card);
  CHECK(card->find(SectionType::kProfileDigest));
  CHECK(card->find(static_cast<SectionType>(3001)));
  CHECK_FALSE(card->find(static_cast<SectionType>(3000)));
}

TEST_CASE("every valid fixture that can be cut gives a card that verifies", "[unit]") {
  std::size_t cuts = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(std::string(CACHECARD_FIXTURES_DIR) + "/valid")) {
    if (entry.path().extension() != ".card") continue;
    INFO(entry.path().filename().string());
    const auto file = open_file(entry.path().string());
    REQUIRE(file);
    const auto card = CardReader::open(**file);
    REQUIRE(card);
    const std::uint64_t count = card->header().token_count;
    for (std::uint64_t first = 0; first < count; first += std::max<std::uint64_t>(1, count / 3)) {
      MemorySink sink;
      const auto report = trim(*card, sink, tokens(first, count - (count - first) / 4));
      if (!report) {
        INFO(report.error().message());
        REQUIRE(report.error().code == ErrorCode::kNotRestorable);
        continue;
      }
      CHECK(verdict(sink.bytes()) == "ok");
      ++cuts;
    }
  }
  CHECK(cuts > 100);
}
