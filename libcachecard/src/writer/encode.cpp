#include "cachecard/digest.hpp"
#include "cachecard/writer.hpp"
#include "codec/byte_compressor.hpp"
#include "format/record_check.hpp"
#include "format/section_rules.hpp"

namespace cachecard {

FrameHeader make_frame(SectionType type, std::uint32_t segment) {
  FrameHeader frame;
  frame.section_type = static_cast<std::uint16_t>(type);
  frame.flags = section_rule(frame.section_type)->flags;
  frame.segment = segment;
  return frame;
}

Result<EncodedSection> encode_section(FrameHeader frame, std::span<const std::byte> payload,
                                      int zstd_level) {
  EncodedSection section;
  section.stored = payload;
  if (frame.compressor != 0) {
    const DTypeInfo* info = dtype_info(static_cast<DType>(frame.dtype));
    const std::size_t element = info == nullptr || info->block_elements != 1 ? 1 : info->block_bytes;
    auto smaller = compress(static_cast<Compressor>(frame.compressor), payload, element, zstd_level);
    if (!smaller) return smaller.error();
    if (smaller->empty()) {
      frame.compressor = 0;
    } else {
      section.buffer = std::move(*smaller);
      section.stored = section.buffer;
    }
  }
  frame.decoded_size = payload.size();
  frame.stored_size = section.stored.size();
  frame.digest_size = section.stored.size();
  frame.stored_digest = digest64(section.stored);
  section.frame = frame;
  return section;
}

Result<EncodedSection> encode_chunk(const CardHeader& header, std::size_t stream_index, FrameHeader frame,
                                    std::span<const std::byte> rows, int zstd_level) {
  const StreamRecord& stream = header.streams[stream_index];
  const auto dtype = static_cast<DType>(stream.dtype);
  const DTypeInfo& info = *dtype_info(dtype);
  frame.layer = stream.layer;
  frame.stream = stream.stream;
  frame.dtype = stream.dtype;
  frame.codec = static_cast<std::uint8_t>(info.block_elements == 1 ? Codec::kRaw : Codec::kGgml);
  if (info.block_elements != 1 && frame.compressor == static_cast<std::uint8_t>(Compressor::kSplitZstd)) {
    frame.compressor = static_cast<std::uint8_t>(Compressor::kZstd);  // blocks have no element to split
  }
  if (dtype != DType::kBytes && rows.size() != frame.token_count * row_bytes(stream, dtype)) {
    return Error{ErrorCode::kInvalidArgument, kNoOffset, "frame_header.decoded_size",
                 found_allowed(rows.size(), "the rows of " + std::to_string(frame.token_count) + " tokens")};
  }
  return encode_section(frame, rows, zstd_level);
}

std::string_view name_of(RawReason reason) noexcept {
  switch (reason) {
    case RawReason::kNonFinite: return "non_finite";
    case RawReason::kOutOfReach: return "out_of_reach";
    case RawReason::kWorse: return "worse_than_q8_0";
    case RawReason::kLarger: return "larger_than_raw";
  }
  return "unknown";
}

Status CacheSource::read_opaque(std::size_t, std::uint64_t, std::span<std::byte>) const {
  return Error{ErrorCode::kInternal, kNoOffset, {}, "this source has no opaque stream"};
}

Status CacheSource::read_literals(std::uint64_t, std::span<std::byte>) const {
  return Error{ErrorCode::kInternal, kNoOffset, {}, "this source has no literals"};
}

}  // namespace cachecard
