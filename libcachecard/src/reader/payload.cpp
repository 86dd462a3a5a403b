#include "reader/payload.hpp"

#include "cachecard/digest.hpp"
#include "codec/byte_compressor.hpp"
#include "format/framing.hpp"
#include "format/record_check.hpp"

namespace cachecard {

std::size_t element_size(const FrameHeader& frame) {
  const DTypeInfo* info = dtype_info(static_cast<DType>(frame.dtype));
  return info == nullptr || info->block_elements != 1 ? 1 : info->block_bytes;
}

Status check_digest(const FrameHeader& frame, std::span<const std::byte> stored) {
  return check_digest_value(frame, digest64(stored.first(frame.digest_size)));
}

Status check_digest_value(const FrameHeader& frame, std::uint64_t digest) {
  if (digest == frame.stored_digest) return {};
  return Error{ErrorCode::kChecksumMismatch, frame.offset + kFrameHeaderSize,
               "frame_header.stored_digest",
               "the payload of section " +
                   std::string(name_of(static_cast<SectionType>(frame.section_type))) +
                   " does not match"};
}

Status inflate_payload(const FrameHeader& frame, std::span<const std::byte> stored,
                       std::span<std::byte> out, std::span<std::byte> scratch) {
  Status status = decompress(static_cast<Compressor>(frame.compressor), stored, element_size(frame),
                             out, scratch);
  if (!status) return at_payload(status.error(), frame);
  return {};
}

Status check_named_parameters(const FrameHeader& frame, const StreamRecord& stream, const ParameterHeader& parameters) {
  const auto lossy = [](std::uint8_t codec) {
    return codec == static_cast<std::uint8_t>(Codec::kPlanes) || codec == static_cast<std::uint8_t>(Codec::kEntropy);
  };
  if ((lossy(frame.codec) || lossy(parameters.codec)) && frame.codec != parameters.codec) {
    return field_error(ErrorCode::kCorrupt, frame.offset, &FrameHeader::parameter_digest,
                       "the parameters there are of another codec");
  }
  if (!lossy(frame.codec) && parameters.hadamard_size != stream.hadamard_size) {
    return field_error(ErrorCode::kCorrupt, frame.offset, &FrameHeader::parameter_digest,
                       "the rotation there is not the header's");
  }
  return {};
}

Error at_payload(Error error, const FrameHeader& frame) {
  if (error.offset == kNoOffset) error.offset = frame.offset + kFrameHeaderSize;
  return error;
}

}  // namespace cachecard
