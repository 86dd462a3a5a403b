#pragma once

#include <array>
#include <span>

#include "cachecard/card.hpp"
#include "cachecard/records.hpp"

/// Prologue, frame headers and trailer: the records that carry a check of themselves.
namespace cachecard {

using PrologueBytes = std::array<std::byte, encoded_size<Prologue>()>;
using FrameBytes = std::array<std::byte, encoded_size<FrameHeader>()>;
using TrailerBytes = std::array<std::byte, encoded_size<Trailer>()>;

inline constexpr std::uint64_t kPrologueSize = encoded_size<Prologue>();
inline constexpr std::uint64_t kFrameHeaderSize = encoded_size<FrameHeader>();
inline constexpr std::uint64_t kTrailerSize = encoded_size<Trailer>();

/// Bytes of the record with its check set.
PrologueBytes seal(const Prologue& prologue);
FrameBytes seal(const FrameHeader& frame);
TrailerBytes seal(const Trailer& trailer);

/// spec: FORMAT.md#prologue-checks, in this order: magic, check, version, reserved, features, size.
Result<Prologue> open_prologue(std::span<const std::byte> bytes, const Limits& limits);
/// Check and reserved bytes; everything else is FrameWalk's.
Result<FrameHeader> open_frame(std::span<const std::byte> bytes, std::uint64_t offset);
/// End magic, check, reserved. offset: where the trailer starts.
Result<Trailer> open_trailer(std::span<const std::byte> bytes, std::uint64_t offset);

/// Header bytes against prologue.header_digest.
Status check_header_digest(const Prologue& prologue, std::span<const std::byte> header);

/// Zero padding up to 64 bytes that starts at offset. Errors: reserved_not_zero
Status check_padding(std::span<const std::byte> padding, std::uint64_t offset);

}  // namespace cachecard
