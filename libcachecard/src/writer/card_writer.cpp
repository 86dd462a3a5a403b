#include <cstring>
#include <map>

#include "base/checked.hpp"
#include "cachecard/digest.hpp"
#include "cachecard/writer.hpp"
#include "codec/byte_compressor.hpp"
#include "format/entropy_layout.hpp"
#include "format/frame_walk.hpp"
#include "format/framing.hpp"
#include "format/planes_layout.hpp"
#include "format/record_check.hpp"

namespace cachecard {

struct CardWriter::State {
  ByteSink& sink;
  Limits limits;
  Prologue prologue;
  CardHeader header;
  std::optional<FrameWalk> walk;
  std::vector<std::byte> frame_bytes;  ///< every frame header so far: the directory's payload
  std::map<std::uint32_t, BitWidthMap> maps;  ///< by segment, for the widths of lossy chunks

  Status note(const FrameHeader& frame, std::span<const std::byte> stored);

  Status put(const FrameHeader& frame, std::span<const std::byte> stored);
};

CardWriter::CardWriter(std::unique_ptr<State> state) : state_(std::move(state)) {}
CardWriter::CardWriter(CardWriter&&) noexcept = default;
CardWriter& CardWriter::operator=(CardWriter&&) noexcept = default;
CardWriter::~CardWriter() = default;

Result<CardWriter> CardWriter::create(ByteSink& sink, const CardHeader& header,
                                      std::uint64_t required_features, std::uint64_t optional_features,
                                      const Limits& limits) {
  auto bytes = encode_header(header, limits);
  if (!bytes) return bytes.error();
  auto state = std::unique_ptr<State>(new State{sink, limits, {}, header, {}, {}, {}});
  state->prologue.header_size = static_cast<std::uint32_t>(bytes->size());
  state->prologue.required_features = required_features;
  state->prologue.optional_features = optional_features;
  state->prologue.header_digest = digest64(*bytes);
  const PrologueBytes prologue_bytes = seal(state->prologue);
  if (auto back = open_prologue(prologue_bytes, limits); !back) return back.error();
  bytes->resize(align64(bytes->size()));
  if (Status s = sink.write(prologue_bytes); !s) return s.error();
  if (Status s = sink.write(*bytes); !s) return s.error();
  state->walk.emplace(state->prologue, prologue_bytes, *bytes, state->header, state->limits);
  return CardWriter(std::move(state));
}

/// Maps are kept where lossy chunks may follow, and these are held to theirs.
Status CardWriter::State::note(const FrameHeader& frame, std::span<const std::byte> stored) {
  if ((prologue.required_features & (kFeaturePlanes | kFeatureEntropy)) == 0) return {};
  if (frame.section_type == static_cast<std::uint16_t>(SectionType::kBitWidthMap)) {
    std::vector<std::byte> plain(frame.decoded_size);
    std::vector<std::byte> scratch(decompress_scratch(static_cast<Compressor>(frame.compressor), plain.size()));
    if (Status s = decompress(static_cast<Compressor>(frame.compressor), stored, 1, plain, scratch); !s) return s;
    auto map = parse_map(plain, header, frame.token_count, limits);
    if (!map) return map.error();
    maps[frame.segment] = std::move(*map);
    return {};
  }
  const bool chunk = frame.section_type == static_cast<std::uint16_t>(SectionType::kChunk);
  if (chunk && frame.codec == static_cast<std::uint8_t>(Codec::kEntropy)) {
    auto tokens = entropy_tokens(header, maps.at(frame.segment), frame);
    if (!tokens) return tokens.error();
    count_entropy(header, maps.at(frame.segment), frame, *walk);
    return {};
  }
  if (!chunk || frame.codec != static_cast<std::uint8_t>(Codec::kPlanes)) return {};
  auto tokens = planes_tokens(header, maps.at(frame.segment), frame);
  if (!tokens) return tokens.error();
  count_planes(header, frame, *tokens, *walk);
  return {};
}

Status CardWriter::State::put(const FrameHeader& frame, std::span<const std::byte> stored) {
  static constexpr std::array<std::byte, 64> kZeros{};
  const FrameBytes bytes = seal(frame);
  const FrameHeader sealed = load<FrameHeader>(bytes);
  if (Status s = walk->accept(sealed, bytes); !s) return s;
  if (Status s = note(sealed, stored); !s) return s;
  frame_bytes.insert(frame_bytes.end(), bytes.begin(), bytes.end());
  if (Status s = sink.write(bytes); !s) return s;
  if (Status s = sink.write(stored); !s) return s;
  return sink.write(std::span(kZeros).first(align64(stored.size()) - stored.size()));
}

Result<FrameHeader> CardWriter::append(const EncodedSection& section) {
  FrameHeader frame = section.frame;
  if (section.stored.size() != frame.stored_size) {
    return field_error(ErrorCode::kInvalidArgument, kNoOffset, &FrameHeader::stored_size,
                       found_allowed(frame.stored_size, std::to_string(section.stored.size())));
  }
  frame.offset = state_->walk->next_offset();
  if (Status s = state_->put(frame, section.stored); !s) return s.error();
  return frame;
}

Result<FrameHeader> CardWriter::add(FrameHeader frame, std::span<const std::byte> payload) {
  auto section = encode_section(frame, payload);
  if (!section) return section.error();
  return append(*section);
}

std::uint64_t CardWriter::size() const { return state_->walk->next_offset(); }

Result<WriteReport> CardWriter::finish(double predicted_error) {
  WriteReport report;
  report.summary = state_->walk->summary();
  report.summary.predicted_error = predicted_error;
  auto summary = add(make_frame(SectionType::kSummary), encode_summary(report.summary));
  if (!summary) return summary.error();
  const std::vector<std::byte> headers = state_->frame_bytes;
  auto directory = add(make_frame(SectionType::kDirectory), headers);
  if (!directory) return directory.error();
  if (Status s = state_->walk->finish(); !s) return s.error();

  Trailer trailer;
  trailer.summary_offset = summary->offset;
  trailer.directory_offset = directory->offset;
  trailer.frame_count = state_->walk->frame_count();
  trailer.file_size = state_->walk->next_offset() + kTrailerSize;
  const TrailerBytes unrooted = seal(trailer);
  trailer.root = state_->walk->root(std::span(unrooted).first(32));
  if (Status s = state_->sink.write(seal(trailer)); !s) return s.error();
  report.root = trailer.root;
  report.file_size = trailer.file_size;
  return report;
}

}  // namespace cachecard
