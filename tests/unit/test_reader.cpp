#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>

#include "plan_source.hpp"

using namespace cachecard;
using namespace cachecard::tests;

namespace {

/// Counts what a reader touches.
class CountingSource final : public ByteSource {
 public:
  explicit CountingSource(std::span<const std::byte> bytes) : memory_(bytes) {}
  std::uint64_t size() const override { return memory_.size(); }
  Status read_at(std::uint64_t offset, std::span<std::byte> out) const override {
    bytes_read += out.size();
    return memory_.read_at(offset, out);
  }
  mutable std::atomic<std::uint64_t> bytes_read{0};

 private:
  MemorySource memory_;
};

fixtures::CardPlan large_plan() {
  fixtures::CardPlan plan = fixtures::make_plan("large", "", 3000, "", "");
  for (std::uint32_t layer = 0; layer < 4; ++layer)
    fixtures::add_layer(plan, layer, DType::kF16, {.head_dim = 64});
  plan.chunk_tokens = 500;
  return plan;
}

}  // namespace

TEST_CASE("a reader gives back every section of a card", "[unit]") {
  auto plan = two_segment_plan(DType::kQ8_0, 32);
  plan.texts = {"one", "two"};
  plan.optional_features = kFeatureText;
  const std::array entries{ProvenanceEntry{3, ProvenanceOp::kCapture, 0, {}, "made"}};
  plan.last.push_back({make_frame(SectionType::kProvenance), encode_provenance(entries)});
  const auto bytes = fixtures::build(plan).value();
  const MemorySource source(bytes);
  const auto card = CardReader::open(source);
  REQUIRE(card);
  CHECK(card->token_ids().value() == plan.token_ids);
  CHECK(expand_positions(card->positions().value()) == plan.positions);
  CHECK(card->map(1)->token_count == 9);
  CHECK(card->map(2).error().code == ErrorCode::kInvalidArgument);
  CHECK(card->provenance()->front().hop == 3);
  CHECK(card->source_layout().value() == std::nullopt);
  CHECK(card->summary()->value_count == 23 * 64 * 4);
  CHECK(card->chunks(0).size() == 5);
  const auto text = card->find(SectionType::kText, 1);
  REQUIRE(text);
  CHECK(card->read_section(*text).value() == fixtures::to_bytes("two"));
  CHECK_FALSE(card->find(SectionType::kMedia));
  const FrameHeader& chunk = card->frames()[card->chunks(0)[0]];
  CHECK(card->parameters(chunk.parameter_digest)->record.hadamard_size == 32);
  CHECK(card->parameters(1).error().code == ErrorCode::kInvalidArgument);
}

TEST_CASE("opening reads the directory, and facts less; neither touches the chunks", "[unit]") {
  const auto bytes = fixtures::build(large_plan()).value();
  const CountingSource source(bytes);
  REQUIRE(bytes.size() > 3000000);
  REQUIRE(read_facts(source));
  CHECK(source.bytes_read < 3000);
  source.bytes_read = 0;
  const auto card = CardReader::open(source);
  REQUIRE(card);
  CHECK(source.bytes_read < 20000);
  source.bytes_read = 0;
  std::vector<float> values(600 * 64);
  REQUIRE(card->decode({2, 700, 600, false}, {values.data(), DType::kF32, 256, 256, 4, nullptr}));
  CHECK(source.bytes_read == 2 * 500 * 128);  // two chunks of six, of one stream of eight
}

TEST_CASE("facts are those of the whole card", "[unit]") {
  const auto bytes = fixtures::build(two_segment_plan(DType::kF16)).value();
  const MemorySource source(bytes);
  const auto facts = read_facts(source);
  const auto card = CardReader::open(source);
  REQUIRE(facts);
  REQUIRE(card);
  CHECK(facts->trailer.root == card->trailer().root);
  CHECK(facts->header.token_count == 23);
  CHECK(encode_summary(facts->summary) == encode_summary(*card->summary()));
}

TEST_CASE("a card is the same through a file, a mapping and memory", "[unit]") {
  const auto plan = two_segment_plan(DType::kQ4_1, 16);
  const auto bytes = fixtures::build(plan).value();
  char path[] = "/tmp/cachecard_reader_XXXXXX";
  const int fd = ::mkstemp(path);
  REQUIRE(fd >= 0);
  FdSink sink(fd);
  REQUIRE(sink.write(bytes));
  ::close(fd);
  const auto file = open_file(path);
  const auto map = map_file(path);
  std::filesystem::remove(path);
  REQUIRE(file);
  REQUIRE(map);
  const MemorySource memory(bytes);
  for (const ByteSource* source :
       std::initializer_list<const ByteSource*>{file->get(), map->get(), &memory}) {
    const auto card = CardReader::open(*source);
    REQUIRE(card);
    for (std::size_t stream = 0; stream < 4; ++stream) {
      const MemorySource again(bytes);
      CHECK(decode_all(*card, stream) == decode_all(*CardReader::open(again), stream));
    }
    SourceStream stream(*source);
    CHECK(verify(stream, {.decode = true, .limits = {}, .parallel = {}}));
  }
}

TEST_CASE("opaque bytes are read at any offset, over chunk borders", "[unit]") {
  fixtures::CardPlan plan = fixtures::make_plan("opaque", "", 1, "", "");
  fixtures::add_opaque(plan, 0, 101);
  const auto bytes = fixtures::build(plan).value();
  const MemorySource source(bytes);
  const auto card = CardReader::open(source);
  REQUIRE(card);
  REQUIRE(card->chunks(0).size() == 2);
  for (std::size_t first = 0; first <= 101; ++first) {
    for (std::size_t count = 0; first + count <= 101; ++count) {
      std::vector<std::byte> out(count);
      REQUIRE(card->read_opaque(0, first, out));
      REQUIRE(std::equal(out.begin(), out.end(),
                         plan.stream_bytes[0].begin() + static_cast<std::ptrdiff_t>(first)));
    }
  }
  std::vector<std::byte> out(102);
  CHECK(card->read_opaque(0, 0, out).error().code == ErrorCode::kInvalidArgument);
  CHECK(card->read_opaque(7, 0, out).error().code == ErrorCode::kInvalidArgument);
  std::vector<std::byte> scratch(1000);
  CHECK(card->read_rows(0, 0, 0, {}, scratch).error().code == ErrorCode::kInvalidArgument);
}

TEST_CASE("a sequential visitor sees header and every section in file order, and may stop the walk",
          "[unit]") {
  struct Visitor final : SequentialVisitor {
    Status on_header(const Prologue&, const CardHeader& header) override {
      tokens = header.token_count;
      return {};
    }
    Status on_section(const FrameHeader& frame, std::span<const std::byte> stored) override {
      types.push_back(frame.section_type);
      if (stored.size() != frame.stored_size) return Error{};
      if (types.size() == stop_after) return Error{ErrorCode::kInterrupted, kNoOffset, {}, "enough"};
      return {};
    }
    std::uint64_t tokens = 0;
    std::vector<std::uint16_t> types;
    std::size_t stop_after = 0;
  };
  const auto bytes = fixtures::build(two_segment_plan(DType::kF16)).value();
  const MemorySource source(bytes);
  const auto card = CardReader::open(source);
  REQUIRE(card);
  Visitor all;
  SourceStream stream(source);
  const auto report = verify(stream, {}, &all);
  REQUIRE(report);
  CHECK(all.tokens == 23);
  CHECK(report->trailer.root == card->trailer().root);
  CHECK(report->trailer.file_size == bytes.size());
  CHECK(report->trailer.frame_count == card->frames().size());
  for (std::size_t i = 0; i < all.types.size(); ++i) CHECK(all.types[i] == card->frames()[i].section_type);
  Visitor some;
  some.stop_after = 3;
  SourceStream again(source);
  CHECK(verify(again, {}, &some).error().code == ErrorCode::kInterrupted);
  CHECK(some.types.size() == 3);
}

TEST_CASE("sections that are not known are skipped and counted", "[unit]") {
  auto plan = two_segment_plan(DType::kF16);
  FrameHeader unknown;
  unknown.section_type = 700;
  plan.first.assign(3, {unknown, fixtures::to_bytes("later")});
  const auto bytes = fixtures::build(plan).value();
  const MemorySource source(bytes);
  SourceStream stream(source);
  CHECK(verify(stream)->skipped_sections == 3);
  CHECK(CardReader::open(source));
}
