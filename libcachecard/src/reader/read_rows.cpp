#include <algorithm>
#include <cstring>
#include <numeric>

#include "base/checked.hpp"
#include "cachecard/digest.hpp"
#include "format/framing.hpp"
#include "kernel/ggml_blocks.hpp"
#include "reader/chunk_rows.hpp"
#include "reader/payload.hpp"
#include "reader/row_request.hpp"

namespace cachecard {
namespace {

constexpr std::size_t kPieceBytes = 64 << 10;  ///< of a payload that is taken as it is

Error argument_error(std::string detail) {
  return {ErrorCode::kInvalidArgument, kNoOffset, {}, std::move(detail)};
}

/// Rows of one stream as stored, with or without a look at each value.
struct RowReading {
  const CardReader& card;
  const StreamRecord& stream;
  std::span<std::byte> scratch;
  bool counts = false;
  std::uint64_t nonfinite = 0;

  Status read_all(std::size_t stream_index, std::uint64_t first_token, std::uint64_t token_count, std::span<std::byte> out);
  Status read(const FrameHeader& frame, const Overlap& span, std::span<std::byte> place);
  Status copy(const FrameHeader& frame, std::span<std::byte> place);
  DType dtype() const { return static_cast<DType>(stream.dtype); }
  void count(std::span<const std::byte> rows) {
    if (counts) nonfinite += count_nonfinite(dtype(), rows);
  }
};

/// A payload that is the rows: copied, digested and counted piece by piece, while each is in the cache.
Status RowReading::copy(const FrameHeader& frame, std::span<std::byte> place) {
  Digester digester;
  for (std::size_t at = 0; at < place.size(); at += kPieceBytes) {
    const auto piece = place.subspan(at, std::min(kPieceBytes, place.size() - at));
    if (Status s = card.source().read_at(frame.offset + kFrameHeaderSize + at, piece); !s) return s;
    digester.update(piece);
    count(piece);
  }
  return check_digest_value(frame, digester.finish64());
}

Status RowReading::read(const FrameHeader& frame, const Overlap& span, std::span<std::byte> place) {
  const bool verbatim = frame.compressor == 0 && frame.codec != static_cast<std::uint8_t>(Codec::kPlanes) &&
                        frame.codec != static_cast<std::uint8_t>(Codec::kEntropy);
  if (verbatim && place.size() == frame.stored_size && frame.digest_size == frame.stored_size) return copy(frame, place);
  auto rows = ChunkRows::open(card, frame, scratch);
  if (!rows) return rows.error();
  const std::size_t row_size = row_bytes(stream, static_cast<DType>(stream.dtype));
  const std::uint64_t row_count = span.end - span.first;
  for (std::uint64_t row = 0; row < row_count; row += kRowsAtOnce) {
    const std::uint64_t part_count = std::min(kRowsAtOnce, row_count - row);
    const auto part = place.subspan(row * row_size, part_count * row_size);
    const std::uint64_t first = span.first - frame.first_token + row;
    rows->put_rows(first, part_count, part);
    for (std::uint64_t i = 0; counts && i < part_count; ++i) {
      if (!rows->surely_finite(first + i, dtype())) count(part.subspan(i * row_size, row_size));
    }
  }
  return {};
}

Status RowReading::read_all(std::size_t stream_index, std::uint64_t first_token, std::uint64_t token_count,
                            std::span<std::byte> out) {
  const std::size_t row_size = row_bytes(stream, static_cast<DType>(stream.dtype));
  if (out.size() != token_count * row_size || scratch.size() < card.scratch_bytes(stream_index)) {
    return Error{ErrorCode::kBufferTooSmall, kNoOffset, {}, "out or scratch has the wrong size"};
  }
  for (const std::uint32_t index : card.chunks(stream_index)) {
    const FrameHeader& frame = card.frames()[index];
    const Overlap span = overlap(frame, first_token, token_count);
    if (span.first >= span.end) continue;
    const auto place = out.subspan((span.first - first_token) * row_size, (span.end - span.first) * row_size);
    if (Status s = read(frame, span, place); !s) return s;
  }
  return {};
}

}  // namespace

Overlap overlap(const FrameHeader& frame, std::uint64_t first_token, std::uint64_t token_count) {
  return {std::max(frame.first_token, first_token),
          std::min(frame.first_token + frame.token_count, first_token + token_count)};
}

Status check_request(const CardHeader& header, std::size_t stream_index, std::uint64_t first_token,
                     std::uint64_t token_count) {
  if (stream_index >= header.streams.size()) {
    return argument_error("no stream " + std::to_string(stream_index));
  }
  const StreamRecord& stream = header.streams[stream_index];
  if (stream.stream == static_cast<std::uint8_t>(StreamKind::kOpaque)) {
    return argument_error("an opaque stream has no rows");
  }
  if (first_token < stream.first_token ||
      !span_within(first_token - stream.first_token, token_count, stream.token_count)) {
    return argument_error("tokens " + std::to_string(first_token) + " + " + std::to_string(token_count) +
                          ", the stream holds " + std::to_string(stream.first_token) + " + " +
                          std::to_string(stream.token_count));
  }
  return {};
}

std::size_t CardReader::scratch_bytes(std::size_t stream_index) const {
  std::size_t most = 0;
  for (std::uint32_t frame : chunks(stream_index)) {
    most = std::max(most, chunk_scratch(header_.streams[stream_index], frames_[frame]));
  }
  return most;
}

Status CardReader::read_rows(std::size_t stream_index, std::uint64_t first_token, std::uint64_t token_count,
                             std::span<std::byte> out, std::span<std::byte> scratch) const {
  if (Status s = check_request(header_, stream_index, first_token, token_count); !s) return s;
  RowReading reading{*this, header_.streams[stream_index], scratch};
  return reading.read_all(stream_index, first_token, token_count, out);
}

Result<std::uint64_t> CardReader::read_counted_rows(std::size_t stream_index, std::uint64_t first_token,
                                                    std::uint64_t token_count, std::span<std::byte> out,
                                                    std::span<std::byte> scratch) const {
  if (Status s = check_request(header_, stream_index, first_token, token_count); !s) return s.error();
  RowReading reading{*this, header_.streams[stream_index], scratch, true};
  if (Status s = reading.read_all(stream_index, first_token, token_count, out); !s) return s.error();
  return reading.nonfinite;
}

Result<double> CardReader::squared_error_bound(std::size_t index) const {
  const FrameHeader& frame = frames_[index];
  if (frame.codec != static_cast<std::uint8_t>(Codec::kPlanes) &&
      frame.codec != static_cast<std::uint8_t>(Codec::kEntropy)) {
    return 0.0;
  }
  const auto stream = *header_.stream_index(frame.layer, static_cast<StreamKind>(frame.stream));
  std::vector<std::byte> scratch(chunk_scratch(header_.streams[stream], frame));
  auto rows = ChunkRows::open(*this, frame, scratch);
  if (!rows) return rows.error();
  std::vector<double> bounds(frame.token_count);
  rows->add_squared_bounds(bounds);
  return std::accumulate(bounds.begin(), bounds.end(), 0.0);
}

Status CardReader::read_opaque(std::size_t stream_index, std::uint64_t offset,
                               std::span<std::byte> out) const {
  if (stream_index >= header_.streams.size() ||
      !span_within(offset, out.size(), header_.streams[stream_index].opaque_size)) {
    return argument_error("no such bytes of an opaque stream");
  }
  std::uint64_t at = 0;
  for (std::uint32_t index : chunks(stream_index)) {
    const std::uint64_t size = frames_[index].decoded_size;
    const std::uint64_t first = std::max(at, offset);
    const std::uint64_t end = std::min(at + size, offset + out.size());
    if (first < end) {
      auto piece = read_section(index);
      if (!piece) return piece.error();
      std::memcpy(out.data() + (first - offset), piece->data() + (first - at), end - first);
    }
    at += size;
  }
  return {};
}

}  // namespace cachecard
