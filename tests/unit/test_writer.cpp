#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <filesystem>
#include <thread>

#include "cachecard/digest.hpp"
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

/// A writer on a plan's header, ready for sections out of rule.
struct RuleProbe {
  MemorySink sink;
  CardHeader header;
  std::optional<CardWriter> writer;

  explicit RuleProbe(std::uint64_t required = kFeatureZstd | kFeatureGgml) {
    header = two_segment_plan(DType::kQ8_0, 32).header;
    writer.emplace(CardWriter::create(sink, header, required, kFeatureText).value());
  }
  Error add(FrameHeader frame, std::size_t size) {
    const auto added = writer->add(frame, std::vector<std::byte>(size));
    return added ? Error{ErrorCode::kOk, 0, {}, {}} : added.error();
  }
  FrameHeader segment_frame(SectionType type, std::uint32_t segment = 0) const {
    FrameHeader frame = make_frame(type, segment);
    frame.first_token = header.segments[segment].first_token;
    frame.token_count = header.segments[segment].token_count;
    return frame;
  }
};

}  // namespace

TEST_CASE("write_card makes a card that verifies and gives everything back", "[unit]") {
  for (DType dtype : {DType::kF32, DType::kF16, DType::kQ4_0}) {
    for (Compressor compressor : {Compressor::kNone, Compressor::kZstd, Compressor::kSplitZstd}) {
      for (ChunkOrder order : {ChunkOrder::kLayerMajor, ChunkOrder::kSpanMajor}) {
        PlanSource source(two_segment_plan(dtype, 32));
        source.set_text("rendered text");
        source.set_literals(fixtures::to_bytes("literal bytes of a foreign file"));
        CardOptions options;
        options.compressor = compressor;
        options.chunk_order = order;
        options.chunk_tokens = 6;
        options.provenance.text = "test";
        const auto bytes = written(source, options);
        REQUIRE(verdict(bytes) == "ok");
        const MemorySource memory(bytes);
        const auto card = CardReader::open(memory);
        REQUIRE(card);
        CHECK(card->token_ids().value() == source.plan().token_ids);
        CHECK(card->provenance()->front().text == "test");
        CHECK(card->source_layout().value()->record.file_size == 31);
        CHECK(card->find(SectionType::kText, 0));
        for (std::size_t i = 0; i < 4; ++i) {
          std::vector<std::byte> rows(source.plan().stream_bytes[i].size());
          std::vector<std::byte> scratch(card->scratch_bytes(i));
          REQUIRE(card->read_rows(i, 0, 23, rows, scratch));
          CHECK(rows == source.plan().stream_bytes[i]);
        }
      }
    }
  }
}

TEST_CASE("chunks stand in the order that the segment's record says", "[unit]") {
  for (ChunkOrder order : {ChunkOrder::kLayerMajor, ChunkOrder::kSpanMajor}) {
    CardOptions options;
    options.chunk_order = order;
    options.chunk_tokens = 5;
    const auto bytes = written(PlanSource(two_segment_plan(DType::kF16)), options);
    const MemorySource memory(bytes);
    const auto card = CardReader::open(memory);
    REQUIRE(card);
    std::vector<std::tuple<std::uint32_t, std::uint64_t, std::uint64_t, std::uint64_t>> keys;
    for (const FrameHeader& f : card->frames()) {
      if (f.section_type != static_cast<std::uint16_t>(SectionType::kChunk)) continue;
      const std::uint64_t stream = f.layer * 2ull + f.stream;
      order == ChunkOrder::kLayerMajor ? keys.push_back({f.segment, stream, f.first_token, 0})
                                       : keys.push_back({f.segment, f.first_token, stream, 0});
    }
    CHECK(std::is_sorted(keys.begin(), keys.end()));
    CHECK(card->header().segments[1].chunk_order == static_cast<std::uint8_t>(order));
  }
}

TEST_CASE("a pipe, a file and memory get the same bytes", "[unit]") {
  const PlanSource source(two_segment_plan(DType::kQ8_0, 32));
  const auto in_memory = written(source);
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  std::vector<std::byte> piped;
  std::thread reader([&] {
    FdStream stream(ends[0]);
    std::vector<std::byte> piece(1000);
    for (auto size = stream.read(piece); size && *size > 0; size = stream.read(piece)) {
      piped.insert(piped.end(), piece.begin(), piece.begin() + static_cast<std::ptrdiff_t>(*size));
    }
  });
  FdSink pipe_sink(ends[1]);
  CHECK(write_card(source, pipe_sink));
  ::close(ends[1]);
  reader.join();
  ::close(ends[0]);
  CHECK(piped == in_memory);

  const std::string path = "/tmp/cachecard_writer_" + std::to_string(::getpid());
  auto file = create_file(path);
  REQUIRE(file);
  const auto report = write_card(source, **file);
  REQUIRE(report);
  REQUIRE((*file)->commit());
  const auto opened = open_file(path);
  std::filesystem::remove(path);
  REQUIRE(opened);
  std::vector<std::byte> from_file((*opened)->size());
  REQUIRE((*opened)->read_at(0, from_file));
  CHECK(from_file == in_memory);
  CHECK(report->file_size == in_memory.size());
}

TEST_CASE("one thread and four write the same bytes", "[unit]") {
  for (Compressor compressor : {Compressor::kNone, Compressor::kSplitZstd}) {
    const PlanSource source(two_segment_plan(DType::kF16));
    CardOptions options;
    options.compressor = compressor;
    options.chunk_tokens = 3;
    const auto alone = written(source, options);
    for (std::size_t count : {2u, 4u, 7u}) {
      TestThreads threads{count};
      options.parallel = threads.parallel();
      CHECK(written(source, options) == alone);
    }
  }
}

TEST_CASE("write_card makes the bytes that make_fixtures makes of the same facts", "[unit]") {
  for (DType dtype : {DType::kF16, DType::kQ8_0}) {
    PlanSource source(two_segment_plan(dtype, dtype == DType::kQ8_0 ? 32 : 1));
    CardOptions options;
    options.chunk_tokens = 5;  // 14 and 9 tokens leave no remainder under half, which only write_card joins
    const std::array entries{ProvenanceEntry{}};
    source.plan().last.push_back({make_frame(SectionType::kProvenance), encode_provenance(entries)});
    CHECK(written(source, options) == fixtures::build(source.plan()).value());
  }
}

TEST_CASE("a source that fails or is stopped leaves the sink without a card", "[unit]") {
  struct Failing final : CacheSource {
    PlanSource inner{two_segment_plan(DType::kF16)};
    const CardHeader& header() const override { return inner.header(); }
    std::span<const std::int32_t> token_ids() const override { return inner.token_ids(); }
    std::span<const std::int32_t> positions() const override { return inner.positions(); }
    Status read_rows(std::size_t stream, std::uint64_t, std::uint64_t, std::span<std::byte>) const override {
      return stream < 2 ? Status() : Error{ErrorCode::kForeignInput, 5, "somewhere", "broken"};
    }
  };
  MemorySink sink;
  const auto failed = write_card(Failing(), sink);
  REQUIRE_FALSE(failed);
  CHECK(failed.error().code == ErrorCode::kForeignInput);
  CHECK(failed.error().offset == 5);
  CardOptions options;
  options.chunk_tokens = 5;
  std::vector<std::uint64_t> seen;
  options.progress = [&](std::uint64_t done, std::uint64_t total) {
    seen.push_back(done);
    return done < total / 2;
  };
  MemorySink stopped;
  CHECK(write_card(PlanSource(two_segment_plan(DType::kF16)), stopped, options).error().code ==
        ErrorCode::kInterrupted);
  CHECK(std::is_sorted(seen.begin(), seen.end()));
  PlanSource wrong(two_segment_plan(DType::kF16));
  wrong.plan().token_ids.pop_back();
  CHECK(write_card(wrong, stopped).error().code == ErrorCode::kInvalidArgument);
}

TEST_CASE("the writer refuses every frame that a reader would, naming the rule", "[unit]") {
  RuleProbe probe;
  CHECK(probe.add(probe.segment_frame(SectionType::kTokenIds), 55).field == "frame_header.decoded_size");
  CHECK(probe.add(probe.segment_frame(SectionType::kTokenIds), 56).code == ErrorCode::kOk);
  CHECK(probe.add(probe.segment_frame(SectionType::kTokenIds), 56).field == "frame_header.section_type");
  CHECK(probe.add(make_frame(SectionType::kPositions, 0), 24).field == "frame_header.first_token");
  CHECK(probe.add(make_frame(SectionType::kPositions, 2), 24).field == "frame_header.segment");
  CHECK(probe.add(make_frame(SectionType::kMedia, 0), 5).field ==
        "frame_header.section_type");  // feature bit
  CHECK(probe.add(make_frame(SectionType::kSourceBytes), 5).field == "frame_header.section_type");
  FrameHeader chunk = make_frame(SectionType::kChunk, 0);
  CHECK(probe.add(chunk, 5).field == "frame_header.layer");
  chunk.layer = 0;
  chunk.stream = 2;
  CHECK(probe.add(chunk, 5).field == "frame_header.stream");
  chunk.stream = 0;
  chunk.codec = 4;
  CHECK(probe.add(chunk, 5).code == ErrorCode::kUnsupportedCodec);
  chunk.codec = 1;
  CHECK(probe.add(chunk, 5).field == "frame_header.dtype");
  chunk.dtype = static_cast<std::uint8_t>(DType::kQ8_0);
  CHECK(probe.add(chunk, 5).field == "frame_header.map_digest");
  FrameHeader unknown;
  unknown.section_type = 900;
  unknown.flags = kFrameRequired;
  CHECK(probe.add(unknown, 5).code == ErrorCode::kUnsupportedFeature);
  CHECK(probe.add(make_frame(SectionType::kCanary), (16u << 20) + 1).code == ErrorCode::kLimitExceeded);
  CHECK(probe.writer->finish().error().code == ErrorCode::kCorrupt);  // streams are not filled
}

TEST_CASE("a writer refuses a section whose payload is not what its frame says", "[unit]") {
  RuleProbe probe;
  const auto payload = std::vector<std::byte>(56);
  auto section = encode_section(probe.segment_frame(SectionType::kTokenIds), payload);
  REQUIRE(section);
  section->stored = std::span(payload).first(55);
  CHECK_FALSE(probe.writer->append(*section));
}

TEST_CASE("encode_chunk takes rows of the right size only, and picks the codec by type", "[unit]") {
  const auto plan = two_segment_plan(DType::kQ8_0);
  FrameHeader frame = make_frame(SectionType::kChunk, 0);
  frame.token_count = 2;
  frame.compressor = static_cast<std::uint8_t>(Compressor::kSplitZstd);
  const std::vector<std::byte> rows(2 * 68);
  const auto section = encode_chunk(plan.header, 0, frame, rows);
  REQUIRE(section);
  CHECK(section->frame.codec == static_cast<std::uint8_t>(Codec::kGgml));
  CHECK(section->frame.compressor == static_cast<std::uint8_t>(Compressor::kZstd));  // blocks are not split
  CHECK(section->frame.stored_digest == digest64(section->stored));
  CHECK(encode_chunk(plan.header, 0, frame, std::span(rows).first(135)).error().code ==
        ErrorCode::kInvalidArgument);
}

TEST_CASE("a writer does not start on a header that no reader takes", "[unit]") {
  MemorySink sink;
  CardHeader header = two_segment_plan(DType::kF16).header;
  header.segments.clear();
  CHECK_FALSE(CardWriter::create(sink, header, 0, 0));
  header = two_segment_plan(DType::kF16).header;
  CHECK(CardWriter::create(sink, header, 1u << 20, 0).error().code == ErrorCode::kUnsupportedFeature);
  CHECK(sink.bytes().empty());
}
