#include <catch2/catch.hpp>

#include "card_plan.hpp"

using namespace cachecard;

namespace {

CardHeader sample_header() {
  fixtures::CardPlan plan = fixtures::make_plan("layout", "", 6, "", "");
  fixtures::add_layer(plan, 0, DType::kF16, {.head_dim = 4});
  fixtures::add_stream(plan, 1, StreamKind::kKey, DType::kQ8_0);
  fixtures::add_opaque(plan, 2, 33);
  return plan.header;
}

SourceOperation operation(SourceOp kind, std::uint32_t layer, std::uint8_t stream, std::uint64_t size) {
  SourceOperation op;
  op.operation = static_cast<std::uint8_t>(kind);
  op.layer = layer;
  op.stream = stream;
  op.size = size;
  return op;
}

SourceLayout sample() {
  SourceLayout layout;
  layout.record.order_count = 1;
  layout.order_runs = {{0, 3, 3}, {0, 0, 3}};
  layout.operations = {operation(SourceOp::kLiteral, kNoLayer, kNoStream, 5),
                       operation(SourceOp::kRows, 0, 0, 48), operation(SourceOp::kRows, 0, 1, 48),
                       operation(SourceOp::kRows, 1, 0, 6 * 34), operation(SourceOp::kOpaque, 2, 3, 33)};
  layout.record.literal_size = 5;
  layout.record.file_size = 5 + 48 + 48 + 6 * 34 + 33;
  return layout;
}

template <class Change>
std::string refusal(Change&& change) {
  SourceLayout layout = sample();
  change(layout);
  const auto back = parse_source_layout(encode_source_layout(layout), sample_header());
  return back ? "ok" : back.error().field;
}

}  // namespace

TEST_CASE("a source layout comes back as it was", "[unit]") {
  const auto bytes = encode_source_layout(sample());
  const auto back = parse_source_layout(bytes, sample_header());
  REQUIRE(back);
  CHECK(encode_source_layout(*back) == bytes);
  CHECK(back->order_runs.size() == 2);
  CHECK(back->operations.size() == 5);
}

TEST_CASE("a recipe that does not fit the card is refused, naming the rule", "[unit]") {
  CHECK(refusal([](SourceLayout&) {}) == "ok");
  CHECK(refusal([](SourceLayout& l) { l.operations[1].size = 47; }) == "source_operation.size");
  CHECK(refusal([](SourceLayout& l) { l.operations[3].transposed = 1; }) == "source_operation.transposed");
  CHECK(refusal([](SourceLayout& l) { l.operations[1].transposed = 1; }) == "ok");
  CHECK(refusal([](SourceLayout& l) { l.operations[4].size = 32; }) == "source_operation.size");
  CHECK(refusal([](SourceLayout& l) { l.operations[4].operation = 1; }) == "source_operation.size");
  CHECK(refusal([](SourceLayout& l) { l.operations[1].layer = 9; }) == "source_operation.layer");
  CHECK(refusal([](SourceLayout& l) { l.operations[1].stream = 2; }) == "source_operation.stream");
  CHECK(refusal([](SourceLayout& l) { l.operations[1].order = 7; }) == "source_operation.order");
  CHECK(refusal([](SourceLayout& l) { l.order_runs.pop_back(); }) == "source_operation.size");
  CHECK(refusal([](SourceLayout& l) { l.record.literal_size = 6; }) == "source_layout.literal_size");
  CHECK(refusal([](SourceLayout& l) { l.record.file_size = 6; }) == "source_layout.file_size");
  CHECK(refusal([](SourceLayout& l) { l.order_runs[1].token_count = 4; }) == "source_operation.size");
  CHECK(refusal([](SourceLayout& l) { l.order_runs[0].token_count = 4; }) == "order_run.token_count");
}
