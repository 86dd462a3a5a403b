#include "h5_types.hpp"

#include <algorithm>

namespace cachecard::hdf5 {

Handle float_type(DType dtype) {
  Handle type(H5Tcopy(H5T_IEEE_F32LE), H5Tclose);
  if (dtype == DType::kF32) return type;
  // sign, exponent (position, width), mantissa (position, width); then the bias
  const bool half = dtype == DType::kF16;
  H5Tset_fields(type.get(), 15, half ? 10 : 7, half ? 5 : 8, 0, half ? 10 : 7);
  H5Tset_size(type.get(), 2);
  H5Tset_ebias(type.get(), half ? 15 : 127);
  return type;
}

Handle text_type(std::size_t size) {
  Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
  H5Tset_size(type.get(), std::max<std::size_t>(size, 1));
  H5Tset_cset(type.get(), H5T_CSET_UTF8);
  H5Tset_strpad(type.get(), H5T_STR_NULLPAD);
  return type;
}

Handle bytes_type(std::size_t size) {
  const hsize_t count = size;
  return {H5Tarray_create2(H5T_STD_U8LE, 1, &count), H5Tclose};
}

std::string type_text(hid_t type) {
  const std::string bits = std::to_string(8 * H5Tget_size(type)) + "-bit ";
  const std::string order = H5Tget_order(type) == H5T_ORDER_BE ? "big-endian " : "";
  switch (H5Tget_class(type)) {
    case H5T_INTEGER: return bits + order + (H5Tget_sign(type) == H5T_SGN_NONE ? "unsigned integer" : "integer");
    case H5T_FLOAT: return bits + order + "float";
    case H5T_STRING:
      return H5Tis_variable_str(type) > 0 ? "text of variable length"
                                          : "text of " + std::to_string(H5Tget_size(type)) + " bytes";
    case H5T_COMPOUND: return "a compound of " + std::to_string(H5Tget_size(type)) + " bytes";
    case H5T_ARRAY: return "an array of " + std::to_string(H5Tget_size(type)) + " bytes";
    case H5T_ENUM: return "an enumeration";
    case H5T_VLEN: return "a list of variable length";
    case H5T_REFERENCE: return "a reference";
    case H5T_OPAQUE: return "opaque bytes";
    default: return "another type";
  }
}

}  // namespace cachecard::hdf5
