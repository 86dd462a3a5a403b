// Counts how often entropy cards use each symbol of each table, and each difference of vector scales:
//   count_entropy_symbols CARD... > COUNTS.csv
// make_entropy_tables.py makes the static tables of such counts.
#include <array>
#include <cstdio>
#include <cstdlib>

#include "cachecard/reader.hpp"
#include "codec/strip_encoder.hpp"
#include "reader/chunk_rows.hpp"

namespace cachecard {
namespace {

struct Counts {
  std::array<std::array<std::uint64_t, kernel::kEscape + 1>, kernel::kTableCount> symbols{};
  std::array<std::uint64_t, 31> differences{};
};

void count_strip(const EntropyChunk& chunk, std::size_t strip, Counts& counts) {
  const auto& place = chunk.stream().strips()[strip];
  const auto lanes = chunk.stream().lanes().subspan(place.first, place.channels);
  const auto steps = chunk.unit_steps(place.unit);
  std::vector<std::int16_t> index(chunk.strip_rows(strip).size());
  index_of_rows(lanes, steps, chunk.strip_rows(strip), index);
  for (std::size_t t = 0; t < steps.size(); ++t) {
    for (std::size_t c = 0; c < lanes.size() && steps[t].coded != 0; ++c) {
      const auto coded = code_index(
          kernel::entropy_tables(), kernel::lane_table(lanes[c].level[steps[t].reference], steps[t].shift, lanes[c].shape),
          index[t * kStripWidth + c]);
      // What the tables of today escape is counted by its magnitude all the same: it may get a slot.
      const std::uint32_t k = coded.table.low_bits;
      const int symbol = (index[t * kStripWidth + c] + (k > 0 ? 1 << (k - 1) : 0)) >> k;
      const int magnitude = std::abs(symbol) > kernel::kLargestSymbol ? kernel::kEscape : std::abs(symbol);
      ++counts.symbols[coded.table.table][static_cast<std::size_t>(magnitude)];
    }
  }
}

/// Scales by their multiplier: without offsets these are 2^(s/4).
void count_scales(const EntropyChunk& chunk, Counts& counts) {
  if (!chunk.stream().has_scale()) return;
  for (std::size_t u = 0; u < chunk.stream().order().unit_count(); ++u) {
    int before = 100;
    for (const kernel::StripToken& token : chunk.unit_steps(u)) {
      if (token.coded == 0) continue;
      int scale = -8;
      while (strip_token(TokenKind::kCoded, 0, scale, 0).multiplier != token.multiplier && scale < 7) ++scale;
      if (before != 100) ++counts.differences[static_cast<std::size_t>(scale - before + 15)];
      before = scale;
    }
  }
}

int count_card(const char* path, Counts& counts) {
  auto file = open_file(path);
  if (!file) return std::fprintf(stderr, "%s: %s\n", path, file.error().detail.c_str()), 1;
  auto card = CardReader::open(**file);
  if (!card) return std::fprintf(stderr, "%s: %s\n", path, card.error().detail.c_str()), 1;
  for (const FrameHeader& frame : card->frames()) {
    if (frame.section_type != static_cast<std::uint16_t>(SectionType::kChunk)) continue;
    if (frame.codec != static_cast<std::uint8_t>(Codec::kEntropy)) continue;
    const auto stream = card->header().stream_index(frame.layer, static_cast<StreamKind>(frame.stream));
    std::vector<std::byte> scratch(chunk_scratch(card->header().streams[*stream], frame));
    auto rows = ChunkRows::open(*card, frame, scratch);
    if (!rows) return std::fprintf(stderr, "%s: %s\n", path, rows.error().detail.c_str()), 1;
    const EntropyChunk& chunk = *rows->entropy_chunk();
    for (std::size_t s = 0; s < chunk.stream().strip_count(); ++s) count_strip(chunk, s, counts);
    count_scales(chunk, counts);
  }
  return 0;
}

}  // namespace
}  // namespace cachecard

int main(int argc, char** argv) {
  cachecard::Counts counts;
  for (int i = 1; i < argc; ++i) {
    if (cachecard::count_card(argv[i], counts) != 0) return 1;
  }
  for (std::size_t t = 0; t < counts.symbols.size(); ++t) {
    for (std::size_t s = 0; s < counts.symbols[t].size(); ++s) {
      std::printf("table,%zu,%zu,%llu\n", t, s, static_cast<unsigned long long>(counts.symbols[t][s]));
    }
  }
  for (std::size_t d = 0; d < counts.differences.size(); ++d) {
    std::printf("scale,0,%d,%llu\n", static_cast<int>(d) - 15, static_cast<unsigned long long>(counts.differences[d]));
  }
}
