#pragma once

#include <span>
#include <vector>

#include "cachecard/error.hpp"
#include "cachecard/records.hpp"

namespace cachecard {

/// Element size for the byte split of a frame's type. Needs: the frame passed FrameWalk.
std::size_t element_size(const FrameHeader& frame);

/// Stored bytes against the frame's digest. Errors: checksum_mismatch at the payload's offset
Status check_digest(const FrameHeader& frame, std::span<const std::byte> stored);
/// The same with their digest at hand.
Status check_digest_value(const FrameHeader& frame, std::uint64_t digest);

/// Stored bytes to decoded ones. Needs: out.size() == frame.decoded_size.
Status inflate_payload(const FrameHeader& frame, std::span<const std::byte> stored,
                       std::span<std::byte> out, std::span<std::byte> scratch);

/// A chunk's parameters against its codec and its stream's rotation. Errors: corrupt at frame_header.parameter_digest
Status check_named_parameters(const FrameHeader& frame, const StreamRecord& stream, const ParameterHeader& parameters);

/// An error of a payload's parser, placed at its frame.
Error at_payload(Error error, const FrameHeader& frame);

}  // namespace cachecard
