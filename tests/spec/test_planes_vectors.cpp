#include <bit>
#include <catch2/catch.hpp>
#include <fstream>
#include <map>
#include <sstream>

#include "codec/planes_codec.hpp"
#include "kernel/planes_tables.hpp"
#include "spec_file.hpp"

/// The planes of VECTORS.md, made by hand, and the numbers of spec/tables.
namespace cachecard {
namespace {

std::uint64_t bits_of(const std::string& word) { return std::stoull(word, nullptr, 16); }

std::vector<std::vector<std::string>> cases(const std::string& name) {
  return spec::words_of(spec::block(spec::read_spec("VECTORS.md"), "cases", name));
}

/// One f16 key stream of a head of eight channels, as the vector's text has it.
struct VectorStream {
  CardHeader header;
  Parameters parameters;
  RopeTable table;
  BitWidthMap map;
  FrameHeader frame;

  VectorStream() {
    header.token_count = 4;
    StreamRecord& stream = header.streams.emplace_back();
    stream.dtype = static_cast<std::uint8_t>(DType::kF16);
    stream.rope_state = static_cast<std::uint8_t>(RopeState::kPostRope);
    stream.kv_head_count = 1;
    stream.head_dim = 8;
    stream.token_count = 4;
    header.segments.emplace_back().token_count = 4;
    table.record.pairing = static_cast<std::uint8_t>(RopePairing::kHalfSplit);
    table.record.rotated_width = 4;
    table.inverse_frequencies = {1.0, 0.25};
    parameters.record.codec = static_cast<std::uint8_t>(Codec::kPlanes);
    parameters.record.rope_removed = 1;
    parameters.record.hadamard_size = 4;
    for (const int mean : {0x3800, 0xB400, 0x0000, 0x3C00, 0x0000, 0x0000, 0x4000, 0xB000}) {
      parameters.data.push_back(static_cast<std::byte>(mean & 0xFF));
      parameters.data.push_back(static_cast<std::byte>(mean >> 8));
    }
    parameters.record.data_size = parameters.data.size();
    map.token_count = 4;
    map.base = {4};
    map.cap = {kNoCap};
    map.row_of = {0};
    map.rows = {kOffsetExact, 0, 2, 0};
    frame.codec = static_cast<std::uint8_t>(Codec::kPlanes);
    frame.layer = 0;
    frame.stream = 0;
    frame.segment = 0;
    frame.token_count = 4;
  }

  /// Rows of a payload, as hex words.
  std::vector<std::vector<std::string>> rows(std::span<const std::byte> payload, std::uint64_t digest_size) {
    frame.stored_size = payload.size();
    frame.digest_size = digest_size;
    const auto tokens = planes_tokens(header, map, frame);
    REQUIRE(tokens);
    const PlanesStream stream(header.streams[0], parameters, &table);
    const auto head = parse_planes_head(header.streams[0], frame, *tokens, 1, payload.first(digest_size));
    if (!head) FAIL(head.error().message());
    if (const Status s = check_plane_digests(frame, *head, payload); !s) FAIL(s.error().message());
    std::array<float, 16> angles{};
    const std::array<std::int32_t, 4> positions{10, 11, 12, 13};
    kernel::planes_kernels().rope_angles(positions, table.inverse_frequencies, 1.0, angles.data());
    const PlanesChunk chunk{stream, *tokens, *head, payload, angles.data()};
    std::vector<float> scratch(planes_decode_scratch(stream));
    std::vector<std::vector<std::string>> rows;
    for (std::size_t t = 0; t < 4; ++t) {
      std::array<std::uint16_t, 8> row{};
      chunk.decode(t, 1, {reinterpret_cast<std::byte*>(row.data()), 16, DType::kF16}, 16, scratch);
      auto& words = rows.emplace_back();
      for (const std::uint16_t value : row) {
        char text[8];
        std::snprintf(text, sizeof(text), "%04X", value);
        words.emplace_back(text);
      }
    }
    return rows;
  }
};

}  // namespace

TEST_CASE("vector: angles of RoPE") {
  for (const auto& words : cases("rope_angles")) {
    const std::array<std::int32_t, 1> position{std::stoi(words[0])};
    const std::array<double, 1> frequency{std::bit_cast<double>(bits_of(words[1]))};
    for (const auto* set : {&kernel::planes_scalar(), &kernel::planes_kernels()}) {
      std::array<float, 2> angle{};
      set->rope_angles(position, frequency, 1.0, angle.data());
      INFO(set->name << " at position " << words[0]);
      CHECK(std::bit_cast<std::uint32_t>(angle[0]) == bits_of(words[2]));
      CHECK(std::bit_cast<std::uint32_t>(angle[1]) == bits_of(words[3]));
    }
  }
}

TEST_CASE("vector: a planes chunk is decoded, whole and with planes dropped") {
  VectorStream vector;
  const auto payload = spec::hex_block(spec::read_spec("VECTORS.md"), "planes_payload");
  CHECK(vector.rows(payload, 104) == cases("planes_rows"));

  // Only plane 0 is left: its table row stays, those of the others go, and the digest of the head changes.
  std::vector<std::byte> lowered(payload.begin(), payload.begin() + 56 + 16);
  lowered[4] = std::byte{1};
  lowered.insert(lowered.end(), payload.begin() + 104, payload.begin() + 107);
  vector.map.cap = {2};
  CHECK(vector.rows(lowered, 72) == cases("planes_rows_1_bit"));
}

TEST_CASE("the constants of spec/tables/planes.csv are the code's") {
  std::ifstream file(spec::spec_path("tables/planes.csv"));
  REQUIRE(file);
  std::string line;
  std::size_t rows = 0;
  while (std::getline(file, line)) {
    if (line.starts_with('#') || line.starts_with("name,")) continue;
    std::array<std::string, 4> cells;
    std::istringstream in(line);
    for (std::string& cell : cells) std::getline(in, cell, ',');
    const auto index = static_cast<std::size_t>(std::stoul(cells[1]));
    INFO(line);
    ++rows;
    if (cells[0] == "sixteenth_octave") {
      CHECK(std::bit_cast<std::uint32_t>(kernel::kSixteenthOctaves[index]) == bits_of(cells[3]));
      continue;
    }
    const std::map<std::string, double> known{{"two_over_pi", kernel::kTwoOverPi},
                                              {"half_pi_high", kernel::kHalfPiHigh},
                                              {"half_pi_low", kernel::kHalfPiLow},
                                              {"sin_term", index < 6 ? kernel::kSinTerms[index] : 0.0},
                                              {"cos_term", index < 6 ? kernel::kCosTerms[index] : 0.0}};
    CHECK(std::bit_cast<std::uint64_t>(known.at(cells[0])) == bits_of(cells[3]));
  }
  CHECK(rows == 31);
}

}  // namespace cachecard
