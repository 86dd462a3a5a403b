#include <algorithm>
#include <string>
#include <vector>

#include "c_api_boundary.hpp"

namespace cachecard::c_api {
namespace {

/// Answers from the header how many there are, so that a question reads nothing.
bool only_asks(const ccd_card& card, const std::int32_t* out, std::size_t capacity, std::size_t* count) {
  if (out != nullptr || capacity != 0) return false;
  if (count != nullptr) *count = card.reader.header().token_count;
  return true;
}

constexpr std::uint16_t kFineWidth = 16;  ///< half bits of an i8

/// Widths of the part of a request that lies in one chunk. spec: FORMAT.md#bit-width-map
Status chunk_widths(const CardReader& reader, const FrameHeader& frame, const RowSpan& span, std::uint32_t kv_head,
                    std::uint16_t* out) {
  const std::uint64_t first = std::max(frame.first_token, span.first_token);
  const std::uint64_t end = std::min(frame.first_token + frame.token_count, span.first_token + span.token_count);
  if (first >= end) return {};
  const StreamRecord& stream = reader.header().streams[span.stream];
  const std::uint16_t type_width = dtype_info(static_cast<DType>(stream.dtype))->width_half_bits;
  out += first - span.first_token;
  const auto codec = static_cast<Codec>(frame.codec);
  if (codec == Codec::kRaw || codec == Codec::kGgml) {  // they ignore their row
    std::fill_n(out, end - first, type_width);
    return {};
  }
  auto map = reader.map(frame.segment);
  if (!map) return map.error();
  const auto row = map->row(map->row_of[BitWidthMap::first_use(reader.header(), span.stream) + kv_head]);
  const std::uint64_t segment_first = reader.header().segments[frame.segment].first_token;
  for (std::uint64_t t = first; t < end; ++t) {
    const std::int8_t offset = row[t - segment_first];
    const int width = std::max(0, std::min<int>(map->base[span.stream] + offset, map->cap[span.stream]));
    *out++ = offset == kOffsetExact    ? type_width
             : offset == kOffsetFine   ? kFineWidth
             : offset == kOffsetAbsent ? std::uint16_t{0}
                                       : static_cast<std::uint16_t>(width);
  }
  return {};
}

}  // namespace
}  // namespace cachecard::c_api

using namespace cachecard;
using namespace cachecard::c_api;

ccd_status ccd_card_get_token_ids(const ccd_card* card, int32_t* out, size_t capacity, size_t* count,
                                  ccd_error* error) noexcept {
  return guarded(error, [&]() -> Status {
    if (card == nullptr) return argument_error("card is NULL");
    const bool unknown = (card->reader.header().flags & kHeaderTokensUnknown) != 0;
    if (!unknown && only_asks(*card, out, capacity, count)) return {};
    auto ids = card->reader.token_ids();
    if (!ids) return ids.error();
    return give_array(std::span<const std::int32_t>(*ids), out, capacity, count);
  });
}

ccd_status ccd_card_get_positions(const ccd_card* card, int32_t* out, size_t capacity, size_t* count,
                                  ccd_error* error) noexcept {
  return guarded(error, [&]() -> Status {
    if (card == nullptr) return argument_error("card is NULL");
    if (only_asks(*card, out, capacity, count)) return {};
    auto runs = card->reader.positions();
    if (!runs) return runs.error();
    const std::vector<std::int32_t> positions = expand_positions(*runs);
    return give_array(std::span<const std::int32_t>(positions), out, capacity, count);
  });
}

ccd_status ccd_card_get_bit_widths(const ccd_card* card, uint32_t layer, uint32_t stream_kind,
                                   uint32_t kv_head, uint64_t first_token, uint64_t token_count,
                                   uint16_t* out, ccd_error* error) noexcept {
  return guarded(error, [&]() -> Status {
    auto span = find_rows(card, layer, stream_kind, first_token, token_count);
    if (!span) return span.error();
    const StreamRecord& stream = card->reader.header().streams[span->stream];
    if (kv_head >= stream.kv_head_count) return argument_error("no KV head " + std::to_string(kv_head));
    if (out == nullptr && token_count > 0) return argument_error("out is NULL");
    for (const std::uint32_t frame : card->reader.chunks(span->stream)) {
      if (Status s = chunk_widths(card->reader, card->reader.frames()[frame], *span, kv_head, out); !s) return s;
    }
    return {};
  });
}

ccd_status ccd_card_read_opaque(const ccd_card* card, uint32_t layer, uint64_t offset, void* out, size_t size,
                                ccd_error* error) noexcept {
  return guarded(error, [&]() -> Status {
    auto index = find_stream(card, layer, CCD_STREAM_OPAQUE);
    if (!index) return index.error();
    if (out == nullptr && size > 0) return argument_error("out is NULL");
    return card->reader.read_opaque(*index, offset, {static_cast<std::byte*>(out), size});
  });
}
