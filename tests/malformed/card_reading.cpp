#include "card_reading.hpp"

#include <algorithm>

#include "cachecard/digest.hpp"

namespace cachecard::tests {
namespace {

class Everything {
 public:
  explicit Everything(const CardReader& card) : card_(card) {}

  Reading run() {
    read_sections();
    for (std::size_t i = 0; i < card_.header().streams.size(); ++i) {
      const bool opaque = card_.header().streams[i].stream == static_cast<std::uint8_t>(StreamKind::kOpaque);
      opaque ? read_opaque(i) : read_values(i);
    }
    reading_.values_digest = values_.finish64();
    return reading_;
  }

 private:
  template <class T>
  bool note(const Result<T>& result) {
    if (!result && !reading_.read_error) reading_.read_error = result.error();
    return static_cast<bool>(result);
  }

  void read_sections() {
    for (std::size_t i = 0; i < card_.frames().size(); ++i) {
      if (card_.frames()[i].compressor <= 2) note(card_.read_section(i));
    }
    if ((card_.header().flags & kHeaderTokensUnknown) == 0) note(card_.token_ids());
    if (auto runs = card_.positions(); note(runs)) expand_positions(*runs);
    for (std::uint32_t segment = 0; segment < card_.header().segments.size(); ++segment)
      note(card_.map(segment));
    for (const FrameHeader& frame : card_.frames()) {
      const bool chunk = frame.section_type == static_cast<std::uint16_t>(SectionType::kChunk);
      if (chunk && frame.parameter_digest != 0) note(card_.parameters(frame.parameter_digest));
    }
    note(card_.summary());
    note(card_.source_layout());
    note(card_.provenance());
  }

  void read_opaque(std::size_t index) {
    std::vector<std::byte> bytes(card_.header().streams[index].opaque_size);
    if (note(card_.read_opaque(index, 0, bytes))) values_.update(bytes);
  }

  void read_values(std::size_t index) {
    const StreamRecord& stream = card_.header().streams[index];
    std::vector<std::byte> rows(stream.token_count * row_bytes(stream, static_cast<DType>(stream.dtype)));
    std::vector<std::byte> scratch(card_.scratch_bytes(index));
    if (note(card_.read_rows(index, stream.first_token, stream.token_count, rows, scratch)))
      values_.update(rows);
    std::vector<float> values(stream.token_count * row_elements(stream) + 1);
    DecodeTarget target;
    target.base = values.data();
    target.token_stride = static_cast<std::int64_t>(row_elements(stream) * sizeof(float));
    target.head_stride = static_cast<std::int64_t>(stream.head_dim * sizeof(float));
    target.channel_stride = sizeof(float);
    if (note(card_.decode({index, stream.first_token, stream.token_count, false}, target))) {
      values_.update(std::as_bytes(std::span(values)));
    }
  }

  const CardReader& card_;
  Reading reading_;
  Digester values_;
};

}  // namespace

Reading read_everything(std::span<const std::byte> card) {
  const MemorySource source(card);
  const auto opened = CardReader::open(source);
  Reading reading;
  if (!opened) {
    reading.open_error = opened.error();
    return reading;
  }
  return Everything(*opened).run();
}

Result<std::size_t> DribblingStream::read(std::span<std::byte> out) {
  const std::size_t size = std::min({bytes_.size(), out.size(), ++call_ % 61 + 1});
  std::copy_n(bytes_.begin(), size, out.begin());
  bytes_ = bytes_.subspan(size);
  return size;
}

std::string verdict_of(const Result<VerifyReport>& report) {
  if (report) return "ok";
  return std::string(error_info(report.error().code).name) + " " + std::to_string(report.error().offset);
}

std::string verdict_of(ByteStream& stream, bool decode) {
  return verdict_of(verify(stream, {.decode = decode, .limits = {}, .parallel = {}}));
}

std::string verdict_of(std::span<const std::byte> card, bool decode) {
  const MemorySource source(card);
  SourceStream file(source);
  DribblingStream pipe(card);
  const std::string from_file = verdict_of(file, decode);
  const std::string from_pipe = verdict_of(pipe, decode);
  return from_file == from_pipe ? from_file : from_file + " | " + from_pipe;
}

}  // namespace cachecard::tests
