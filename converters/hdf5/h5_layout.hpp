#pragma once

#include <string>

#include "cachecard/card.hpp"

/// Names and numbers of spec/HDF5.md that its writer and its reader share.
namespace cachecard::hdf5 {

inline constexpr const char* kFormatName = "cachecard-hdf5";
inline constexpr std::uint32_t kLayoutVersion = 1;
inline constexpr const char* kDecoded = "decoded";
inline constexpr const char* kCoded = "coded";

/// Name of a layer's, a segment's or a table's group: at least two digits.
inline std::string numbered(std::uint64_t number) {
  return (number < 10 ? "0" : "") + std::to_string(number);
}

inline bool is_opaque(const StreamRecord& stream) {
  return static_cast<StreamKind>(stream.stream) == StreamKind::kOpaque;
}

inline std::string stream_name(const StreamRecord& stream) {
  return std::string(name_of(static_cast<StreamKind>(stream.stream)));
}

/// The type that holds a stream's own values: its type, but f32 for blocks, and for rotated values, which turn back.
inline DType decoded_type(const StreamRecord& stream) {
  const auto dtype = static_cast<DType>(stream.dtype);
  const DTypeInfo* info = dtype_info(dtype);
  return info == nullptr || info->block_elements > 1 || stream.hadamard_size > 1 ? DType::kF32 : dtype;
}

inline bool is_chunk(const FrameHeader& frame) {
  return frame.section_type == static_cast<std::uint16_t>(SectionType::kChunk);
}
inline bool is_directory(const FrameHeader& frame) {
  return frame.section_type == static_cast<std::uint16_t>(SectionType::kDirectory);
}

}  // namespace cachecard::hdf5
