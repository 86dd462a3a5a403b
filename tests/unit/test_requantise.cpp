// An entropy card coded anew for fewer bytes, and budgets of whole files.
#include <catch2/catch.hpp>

#include "cachecard/edit.hpp"
#include "plan_source.hpp"
#include "planes_cases.hpp"

namespace cachecard {
namespace {

using tests::FormulaSource;

struct Made {
  WriteReport report;
  std::vector<std::byte> bytes;
  std::uint64_t encodes = 1;
};

FormulaSource noise() {
  FormulaSource source("requantise", {.tokens = 700, .heads = 2, .head_dim = 64, .dtype = DType::kF16});
  fixtures::Random random("requantise");
  source.fill([&](auto, auto, auto c) {
    double sum = -3.0;
    for (int i = 0; i < 6; ++i) sum += static_cast<double>(random.below(1000)) / 1000.0;
    return sum * (1.0 + static_cast<double>(c % 5));
  });
  return source;
}

CardOptions entropy_options(double bits) {
  CardOptions options;
  options.entropy.emplace().bits = bits;
  options.entropy->costs.assign(4, 0.25);
  return options;
}

Made made_card(const CacheSource& source, const CardOptions& options) {
  MemorySink sink;
  auto report = write_card(source, sink, options);
  REQUIRE(report);
  return {*report, std::move(sink.bytes()), 1};
}

Result<Made> requantised(const Made& card, std::uint64_t bytes) {
  const MemorySource source(card.bytes);
  auto reader = CardReader::open(source);
  REQUIRE(reader);
  MemorySink sink;
  RequantiseOptions options;
  options.file_bytes = bytes;
  options.text = "test";
  auto report = requantise(*reader, sink, options);
  if (!report) return report.error();
  return Made{report->written, std::move(sink.bytes()), report->encodes};
}

}  // namespace

TEST_CASE("a card is coded anew within any budget that holds it", "[unit]") {
  const FormulaSource source = noise();
  const Made card = made_card(source, entropy_options(3.0));
  CHECK(card.report.summary.predicted_error > 0.0);
  double error = card.report.summary.predicted_error;
  for (const double part : {0.9, 0.7, 0.5}) {
    const auto budget = static_cast<std::uint64_t>(part * static_cast<double>(card.bytes.size()));
    auto made = requantised(card, budget);
    REQUIRE(made);
    CHECK(made->bytes.size() <= budget);
    CHECK(made->bytes.size() >= budget - budget / 200);
    CHECK(made->encodes <= 5);
    CHECK(made->report.summary.predicted_error > error);
    error = made->report.summary.predicted_error;
    const MemorySource bytes(made->bytes);
    auto reader = CardReader::open(bytes);
    REQUIRE(reader);
    const auto steps = reader->provenance().value();
    REQUIRE(steps.size() == 2);
    CHECK(steps.back().operation == ProvenanceOp::kRequantize);
    CHECK(steps.back().parent_root == card.report.root);
    std::vector<std::byte> rows(700 * 256);
    std::vector<std::byte> scratch(reader->scratch_bytes(0));
    CHECK(reader->read_rows(0, 0, 700, rows, scratch));
    auto again = requantised(*made, budget / 2);
    if (again) CHECK(again->report.summary.predicted_error > made->report.summary.predicted_error);
  }
  auto none = requantised(card, 100);
  REQUIRE_FALSE(none);
  CHECK(none.error().code == ErrorCode::kInvalidArgument);
  CHECK(none.error().detail.find("the smallest card takes") != std::string::npos);
}

TEST_CASE("what a card says besides its values stays, or is named", "[unit]") {
  fixtures::CardPlan plan = fixtures::make_plan("requantise_text", "", 300, "", "");
  fixtures::add_layer(plan, 0, DType::kF16, {.kv_head_count = 2, .head_dim = 64});
  tests::PlanSource state(std::move(plan));
  state.set_text("what was read");
  state.set_literals(std::vector<std::byte>(64));
  CardOptions written;
  written.entropy.emplace().bits = 8.0;
  const Made card = made_card(state, written);
  const MemorySource source(card.bytes);
  auto reader = CardReader::open(source);
  REQUIRE(reader);
  REQUIRE(reader->find(SectionType::kText, 0));
  MemorySink sink;
  RequantiseOptions options;
  options.bits = 5.0;
  auto report = requantise(*reader, sink, options);
  REQUIRE(report);
  CHECK(report->coded_chunks == reader->chunks(0).size() + reader->chunks(1).size());
  CHECK(report->dropped == std::vector<std::string>{"source_layout"});
  const MemorySource bytes(sink.bytes());
  auto lowered = CardReader::open(bytes);
  REQUIRE(lowered);
  const auto text = lowered->read_section(lowered->find(SectionType::kText, 0).value()).value();
  CHECK(std::string(reinterpret_cast<const char*>(text.data()), text.size()) == "what was read");
}

TEST_CASE("what is not entropy is not requantised", "[unit]") {
  const FormulaSource source = noise();
  CardOptions planes;
  planes.planes.emplace();
  for (const CardOptions& options : {planes, CardOptions()}) {
    auto made = requantised(made_card(source, options), 100000);
    REQUIRE_FALSE(made);
    CHECK(made.error().code == ErrorCode::kUnsupportedFeature);
  }
}

TEST_CASE("a card takes at most the bytes that it may, and nearly all of them", "[unit]") {
  const FormulaSource source = noise();
  for (const std::uint64_t bytes : {40000u, 60000u, 100000u}) {
    CardOptions options = entropy_options(1.0);
    options.file_bytes = bytes;
    const Made card = made_card(source, options);
    CHECK(card.bytes.size() == card.report.file_size);
    CHECK(card.bytes.size() <= bytes);
    CHECK(card.bytes.size() >= bytes - bytes / 200);
  }
  MemorySink sink;
  CardOptions options = entropy_options(1.0);
  options.file_bytes = 500;
  auto small = write_card(source, sink, options);
  REQUIRE_FALSE(small);
  const std::string says = small.error().detail;
  const std::string mark = "the smallest card takes ";
  REQUIRE(says.find(mark) != std::string::npos);
  options.file_bytes = std::stoull(says.substr(says.find(mark) + mark.size()));
  CHECK(write_card(source, sink, options));
  options.entropy.reset();
  CHECK(write_card(source, sink, options).error().code == ErrorCode::kInvalidArgument);
}

}  // namespace cachecard
