#include <catch2/catch.hpp>

#include "card_plan.hpp"

using namespace cachecard;

TEST_CASE("positions come back from their runs, in as few runs as the text allows", "[unit]") {
  struct Case {
    std::vector<std::int32_t> positions;
    std::size_t most_runs;
  };
  for (const Case& c :
       {Case{{}, 0}, Case{{7}, 1}, Case{{0, 1, 2, 3}, 1}, Case{{5, 5, 5}, 1}, Case{{0, 1, 2, 10, 11, 12}, 2},
        Case{{9, 7, 5, 3}, 1}, Case{{0, 1, 5, 9, 13, 14}, 3}, Case{{-2147483647 - 1, 2147483647}, 2}}) {
    const auto runs = position_runs(c.positions);
    CHECK(runs.size() <= c.most_runs);
    CHECK(expand_positions(runs) == c.positions);
    const auto back = parse_positions(encode_positions(runs), c.positions.size());
    REQUIRE(back);
    CHECK(expand_positions(*back) == c.positions);
  }
}

TEST_CASE("positions of any kind come back", "[unit]") {
  fixtures::Random random("positions");
  for (int round = 0; round < 200; ++round) {
    std::vector<std::int32_t> positions;
    for (std::uint64_t i = random.below(40); i > 0; --i) {
      const bool jump = random.below(3) == 0;
      positions.push_back(positions.empty() || jump
                              ? static_cast<std::int32_t>(random.next())
                              : static_cast<std::int32_t>(std::int64_t{positions.back()} % 1000 + 1));
    }
    const auto runs = parse_positions(encode_positions(position_runs(positions)), positions.size());
    REQUIRE(runs);
    CHECK(expand_positions(*runs) == positions);
  }
}

TEST_CASE("parameters, RoPE tables and provenance come back as they were", "[unit]") {
  Parameters parameters;
  parameters.record.hadamard_size = 64;
  parameters.record.rope_table_digest = 77;
  parameters.parts = {{0, 4, 1, {}}};
  parameters.data = fixtures::to_bytes("codec data");
  const auto bytes = encode_parameters(parameters);
  const auto back = parse_parameters(bytes);
  REQUIRE(back);
  CHECK(back->data == parameters.data);
  CHECK(back->parts.size() == 1);
  CHECK(encode_parameters(*back) == bytes);

  RopeTable table;
  table.record.pairing = 1;
  table.record.rotated_width = 4;
  table.inverse_frequencies = {1.0, 0.1};
  const auto rope = parse_rope_table(encode_rope_table(table));
  REQUIRE(rope);
  CHECK(rope->inverse_frequencies == table.inverse_frequencies);

  Digest128 root{};
  root[3] = 9;
  const std::vector<ProvenanceEntry> entries{{0, ProvenanceOp::kCapture, 5, {}, "capture \xC3\xA9"},
                                             {1, ProvenanceOp::kTrim, -1, root, ""}};
  const auto steps = parse_provenance(encode_provenance(entries));
  REQUIRE(steps);
  REQUIRE(steps->size() == 2);
  CHECK(steps->front().text == entries.front().text);
  CHECK(steps->back().parent_root == root);
  CHECK(steps->back().time == -1);
  CHECK(parse_provenance(encode_provenance({}))->empty());
}

TEST_CASE("summaries come back as they were", "[unit]") {
  Summary summary;
  summary.value_count = 5;
  summary.predicted_error = 0.25;
  summary.stages.resize(2);
  summary.stages[1].framing_size = 128;
  summary.widths.resize(1);
  summary.widths[0].width = 17;
  const auto bytes = encode_summary(summary);
  const auto back = parse_summary(bytes);
  REQUIRE(back);
  CHECK(encode_summary(*back) == bytes);
  CHECK(back->predicted_error == 0.25);
}
