#include <array>
#include <bit>
#include <catch2/catch.hpp>
#include <cstring>
#include <fstream>
#include <iterator>
#include <sstream>

#include "codec/entropy_codec.hpp"
#include "kernel/entropy_frequencies.hpp"
#include "spec_file.hpp"

/// The entropy chunk of VECTORS.md, made by hand, and the numbers of spec/tables/entropy.csv.
namespace cachecard {
namespace {

std::vector<std::vector<std::string>> cases(const std::string& name) {
  return spec::words_of(spec::block(spec::read_spec("VECTORS.md"), "cases", name));
}

std::uint32_t bits_of(const std::string& word) { return static_cast<std::uint32_t>(std::stoul(word, nullptr, 16)); }

/// One f16 value stream of a head of four channels, as the vector's text has it.
struct VectorChunk {
  CardHeader header;
  Parameters parameters;
  LaneStream lanes;
  BitWidthMap map;
  FrameHeader frame;
  References references{0, 0, 1u | kSecondClass, 0, 3};

  VectorChunk() {
    header.token_count = 5;
    StreamRecord& stream = header.streams.emplace_back();
    stream.stream = static_cast<std::uint8_t>(StreamKind::kValue);
    stream.dtype = static_cast<std::uint8_t>(DType::kF16);
    stream.kv_head_count = 1;
    stream.head_dim = 4;
    stream.token_count = 5;
    header.segments.emplace_back().token_count = 5;
    parameters.record.codec = static_cast<std::uint8_t>(Codec::kEntropy);
    lanes.record.stream = stream.stream;
    lanes.record.has_mean = lanes.record.has_scale = 1;
    lanes.record.lane_count = 4;
    lanes.record.step = 0.25f;
    for (const auto& words : cases("entropy_lanes")) {
      lanes.lanes.push_back(bits_of(words[0]));
      lanes.means.push_back(static_cast<std::uint16_t>(bits_of(words[1])));
    }
    map.token_count = 5;
    map.base = {4};
    map.cap = {kNoCap};
    map.row_of = {0};
    map.rows = {kOffsetFine, 0, 2, kOffsetExact, -1};
    frame.codec = static_cast<std::uint8_t>(Codec::kEntropy);
    frame.layer = 0;
    frame.stream = stream.stream;
    frame.segment = 0;
    frame.token_count = 5;
  }
};

}  // namespace

TEST_CASE("vector: an entropy chunk is decoded") {
  VectorChunk vector;
  const auto payload = spec::hex_block(spec::read_spec("VECTORS.md"), "entropy_payload");
  vector.frame.stored_size = vector.frame.digest_size = payload.size();
  const EntropyStream stream(vector.header.streams[0], vector.parameters, vector.lanes, nullptr);
  const auto tokens = entropy_tokens(vector.header, vector.map, vector.frame);
  REQUIRE(tokens);
  const auto head = parse_entropy_head(vector.header.streams[0], vector.frame, *tokens, stream.group_widths(), true, payload);
  REQUIRE(head);
  std::vector<std::byte> scratch(entropy_decode_scratch(vector.header.streams[0], vector.frame));
  const auto chunk = EntropyChunk::open(stream, *tokens, *head, vector.references, vector.frame, scratch);
  REQUIRE(chunk);
  const auto fixed = cases("entropy_fixed");
  for (std::size_t i = 0; i < 3; ++i) {
    const std::size_t token = std::array<std::size_t, 3>{1, 2, 4}[i];
    for (std::size_t c = 0; c < 4; ++c) CHECK(chunk->strip_rows(0)[token * 64 + c] == std::stoi(fixed[i][c]));
  }
  std::vector<std::uint16_t> rows(20);
  chunk->put(0, 5, {reinterpret_cast<std::byte*>(rows.data()), 8, DType::kF16}, 8, nullptr);
  const auto expected = cases("entropy_rows");
  for (std::size_t i = 0; i < 20; ++i) CHECK(rows[i] == bits_of(expected[i / 4][i % 4]));
}

/// 32 times the same pair of channels through put_strip, as f32.
std::vector<std::uint32_t> put_pairs(const kernel::EntropyKernels& set, std::array<std::int16_t, 2> pair, float scale, float mean,
                                     const kernel::StripRun& run, std::array<float, 2> angle) {
  std::array<std::int16_t, 64> row{};
  std::array<float, 64> scales{};
  std::array<float, 64> means{};
  std::array<float, 64> angles{};
  for (std::size_t c = 0; c < 64; ++c) {
    row[c] = pair[c % 2];
    scales[c] = scale;
    means[c] = mean;
    angles[c] = angle[c % 2];
  }
  std::vector<std::uint32_t> values(64);
  const kernel::StripOutput strip{row.data(), scales.data(), means.data(), angles.data(), 64, {&run, 1}};
  set.put_strip(strip, 1, reinterpret_cast<std::byte*>(values.data()), 256, DType::kF32);
  return values;
}

TEST_CASE("vector: a row becomes a value with one rounding") {
  for (const auto& words : cases("fused")) {
    const auto row = static_cast<std::int16_t>(std::stoi(words[0]));
    const auto scale = std::bit_cast<float>(bits_of(words[1]));
    const auto mean = std::bit_cast<float>(bits_of(words[2]));
    for (const auto* set : {&kernel::entropy_scalar(), &kernel::entropy_kernels()}) {
      INFO(set->name << ": " << words[0]);
      CHECK(put_pairs(*set, {row, row}, scale, mean, {.count = 64}, {}) == std::vector(64, bits_of(words[3])));
    }
  }
}

TEST_CASE("vector: a pair is turned with its inner products rounded") {
  for (const auto& words : cases("turned")) {
    const std::array pair{static_cast<std::int16_t>(std::stoi(words[0])), static_cast<std::int16_t>(std::stoi(words[1]))};
    const std::array angle{std::bit_cast<float>(bits_of(words[2])), std::bit_cast<float>(bits_of(words[3]))};
    for (const auto* set : {&kernel::entropy_scalar(), &kernel::entropy_kernels()}) {
      for (const std::uint32_t split : {0u, 32u}) {
        INFO(set->name << (split == 0 ? ", interleaved" : ", half-split"));
        const auto found = put_pairs(*set, pair, 1.0f, 0.0f, {.count = 64, .split = split, .rotated = true}, angle);
        for (std::size_t i = 0; i < 32; ++i) {
          const std::size_t x = split == 0 ? 2 * i : i;
          CHECK(found[x] == bits_of(words[4]));
          CHECK(found[split == 0 ? x + 1 : x + split] == bits_of(words[5]));
        }
      }
    }
  }
}

TEST_CASE("the constants of spec/tables/entropy.csv are the code's") {
  std::ifstream file(spec::spec_path("tables/entropy.csv"));
  REQUIRE(file);
  std::string line;
  std::size_t rows = 0;
  while (std::getline(file, line)) {
    if (line.starts_with('#') || line.starts_with("name,")) continue;
    std::array<std::string, 4> cells;
    std::istringstream in(line);
    for (std::string& cell : cells) std::getline(in, cell, ',');
    const auto index = static_cast<std::size_t>(std::stoul(cells[1]));
    std::istringstream numbers(cells[3]);
    std::vector<unsigned> found{std::istream_iterator<unsigned>(numbers), {}};
    INFO(line);
    ++rows;
    if (cells[0] == "frequency") {
      const auto& of = kernel::kEntropyFrequencies.at(index);
      CHECK(found == std::vector<unsigned>(of.begin(), of.end()));
    } else if (cells[0] == "scale_code_length") {
      CHECK(found == std::vector<unsigned>(kernel::kScaleCodeLengths.begin(), kernel::kScaleCodeLengths.end()));
    } else {
      CHECK(cells[0] == "multiplier");
      const auto first = kernel::kMultipliers.begin() + static_cast<std::ptrdiff_t>(16 * index);
      CHECK(found == std::vector<unsigned>(first, first + 16));
    }
  }
  CHECK(rows == 24 + 1 + 16);
}

}  // namespace cachecard
