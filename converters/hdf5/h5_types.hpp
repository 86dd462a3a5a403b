#pragma once

#include <array>
#include <type_traits>

#include "cachecard/records.hpp"
#include "h5_file.hpp"

namespace cachecard::hdf5 {

/// The file's type of a number: little-endian, of the same width. Owns: nothing; the library's own
template <class Number>
hid_t number_type() {
  if constexpr (std::is_same_v<Number, std::uint8_t>) return H5T_STD_U8LE;
  if constexpr (std::is_same_v<Number, std::int8_t>) return H5T_STD_I8LE;
  if constexpr (std::is_same_v<Number, std::uint16_t>) return H5T_STD_U16LE;
  if constexpr (std::is_same_v<Number, std::int16_t>) return H5T_STD_I16LE;
  if constexpr (std::is_same_v<Number, std::uint32_t>) return H5T_STD_U32LE;
  if constexpr (std::is_same_v<Number, std::int32_t>) return H5T_STD_I32LE;
  if constexpr (std::is_same_v<Number, std::uint64_t>) return H5T_STD_U64LE;
  if constexpr (std::is_same_v<Number, std::int64_t>) return H5T_STD_I64LE;
  if constexpr (std::is_same_v<Number, float>) return H5T_IEEE_F32LE;
  if constexpr (std::is_same_v<Number, double>) return H5T_IEEE_F64LE;
}

/// f32, f16 or bf16. h5py reads f16 as float16 and bf16 as float32.
Handle float_type(DType dtype);
/// Fixed length, UTF-8, padded with zeros; an empty text takes one byte.
Handle text_type(std::size_t size);
Handle bytes_type(std::size_t size);  ///< u8[size] as one element

/// What a type is, for messages: "32-bit float".
std::string type_text(hid_t type);

/// A record of a card as a compound without padding, members named as in the spec: its elements are the card's bytes.
template <class Record>
Handle record_type() {
  Handle compound(H5Tcreate(H5T_COMPOUND, encoded_size<Record>()), H5Tclose);
  for_each_field<Record>([&](const auto& f, std::size_t offset) {
    using Member = std::remove_cvref_t<decltype(std::declval<Record&>().*(f.member))>;
    const std::string name(f.name);
    if constexpr (std::is_arithmetic_v<Member>) {
      H5Tinsert(compound.get(), name.c_str(), offset, number_type<Member>());
    } else {
      const Handle bytes = bytes_type(sizeof(Member));
      H5Tinsert(compound.get(), name.c_str(), offset, bytes.get());
    }
  });
  return compound;
}

}  // namespace cachecard::hdf5
