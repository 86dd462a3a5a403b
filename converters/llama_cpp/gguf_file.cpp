#include <limits>

#include "foreign_reader.hpp"
#include "ggml_types.hpp"
#include "gguf_model.hpp"

namespace cachecard::llama_cpp {
namespace {

constexpr std::uint32_t kGgufMagic = 0x46554747;  // "GGUF"
constexpr std::uint64_t kMaxKeyBytes = 65535;
constexpr std::uint64_t kMaxStringBytes = 64u << 20;
constexpr std::uint32_t kMaxDimensions = 4;
constexpr std::uint64_t kMaxKeys = 1u << 16;  ///< of either: a few bytes in the file are a hundred in memory
constexpr std::uint64_t kMaxTensors = 1u << 16;
constexpr std::uint64_t kMaxKeyBytesInAll = 16u << 20;
constexpr std::uint64_t kMaxArrayStrings = 1u << 22;  ///< they are walked one by one; vocabularies have a tenth
constexpr std::size_t kWindowBytes = 256u << 10;

// source: gguf.h enum gguf_type
enum GgufType : std::uint32_t {
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64
};

std::uint64_t scalar_bytes(std::uint32_t type) {
  switch (type) {
    case kU8:
    case kI8:
    case kBool:
      return 1;
    case kU16:
    case kI16:
      return 2;
    case kU32:
    case kI32:
    case kF32:
      return 4;
    case kU64:
    case kI64:
    case kF64:
      return 8;
    default:
      return 0;
  }
}

Result<std::string> read_string(ForeignReader& reader, std::uint64_t limit, std::string_view field) {
  auto size = reader.value<std::uint64_t>(field);
  if (!size) return size.error();
  auto status = reader.expect(*size, 1, field);
  if (!status) return status.error();
  if (*size > limit) {
    return Error{ErrorCode::kLimitExceeded, reader.offset(), std::string(field),
                 std::to_string(*size) + " bytes, allowed are " + std::to_string(limit)};
  }
  std::string text(static_cast<std::size_t>(*size), '\0');
  status = reader.read(std::as_writable_bytes(std::span(text)), field);
  if (!status) return status.error();
  return text;
}

Status check_count(std::uint64_t count, std::uint64_t allowed, std::string_view field) {
  if (count <= allowed) return {};
  return Error{ErrorCode::kLimitExceeded, kNoOffset, std::string(field),
               "found " + std::to_string(count) + ", allowed " + std::to_string(allowed)};
}

Status skip_strings(ForeignReader& reader, std::uint64_t count) {
  auto status = reader.expect(count, sizeof(std::uint64_t), "array.count");
  if (status) status = check_count(count, kMaxArrayStrings, "array.count");
  for (std::uint64_t i = 0; i < count && status; ++i) {
    auto size = reader.value<std::uint64_t>("string.size");
    if (!size) return size.error();
    status = reader.skip(*size, "string");
  }
  return status;
}

Result<GgufArray> read_array(ForeignReader& reader) {
  GgufArray array;
  auto type = reader.value<std::uint32_t>("array.type");
  if (!type) return type.error();
  auto count = reader.value<std::uint64_t>("array.count");
  if (!count) return count.error();
  array.element_type = *type;
  array.count = *count;
  array.offset = reader.offset();
  Status status;
  if (*type == kString) {
    status = skip_strings(reader, *count);
  } else if (const std::uint64_t bytes = scalar_bytes(*type); bytes != 0) {
    status = reader.expect(*count, bytes, "array.count");
    if (status) status = reader.skip(*count * bytes, "array");
  } else {
    status =
        foreign_error(array.offset, "array.type", std::to_string(*type) + " is no type of array elements");
  }
  if (!status) return status.error();
  array.size = reader.offset() - array.offset;
  return array;
}

/// Puts what was read into a key's value, or hands its error on.
template <class Kept, class Read>
Status keep(GgufValue& value, Result<Read> read) {
  if (!read) return read.error();
  value = static_cast<Kept>(*std::move(read));
  return {};
}

template <class Stored, class Kept>
Status keep_number(GgufValue& value, ForeignReader& reader) {
  return keep<Kept>(value, reader.value<Stored>("value"));
}

Status read_value(ForeignReader& reader, std::uint32_t type, GgufValue& value) {
  switch (type) {
    case kU8:
      return keep_number<std::uint8_t, std::uint64_t>(value, reader);
    case kI8:
      return keep_number<std::int8_t, std::int64_t>(value, reader);
    case kU16:
      return keep_number<std::uint16_t, std::uint64_t>(value, reader);
    case kI16:
      return keep_number<std::int16_t, std::int64_t>(value, reader);
    case kU32:
      return keep_number<std::uint32_t, std::uint64_t>(value, reader);
    case kI32:
      return keep_number<std::int32_t, std::int64_t>(value, reader);
    case kF32:
      return keep_number<float, double>(value, reader);
    case kU64:
      return keep_number<std::uint64_t, std::uint64_t>(value, reader);
    case kI64:
      return keep_number<std::int64_t, std::int64_t>(value, reader);
    case kF64:
      return keep_number<double, double>(value, reader);
    case kBool:
      return keep_number<std::uint8_t, bool>(value, reader);
    case kString:
      return keep<std::string>(value, read_string(reader, kMaxStringBytes, "value"));
    case kArray:
      return keep<GgufArray>(value, read_array(reader));
    default:
      return foreign_error(reader.offset(), "value_type", std::to_string(type) + " is no GGUF type");
  }
}

Status read_keys(ForeignReader& reader, std::uint64_t count, GgufFile& file) {
  auto status = reader.expect(count, 13, "n_kv");  // key of no bytes, type, one byte
  if (status) status = check_count(count, kMaxKeys, "n_kv");
  if (!status) return status;
  std::uint64_t key_bytes = 0;
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::uint64_t offset = reader.offset();
    auto key = read_string(reader, kMaxKeyBytes, "key");
    if (!key) return key.error();
    key_bytes += key->size();
    status = check_count(key_bytes, kMaxKeyBytesInAll, "bytes of all keys");
    if (!status) return status;
    auto type = reader.value<std::uint32_t>("value_type");
    if (!type) return type.error();
    const auto [entry, fresh] = file.keys.try_emplace(*key);
    if (!fresh) return foreign_error(offset, "key", "'" + *key + "' occurs twice");
    GgufRange range{*type, reader.offset(), 0};
    status = read_value(reader, *type, entry->second);
    if (!status) return status;
    range.size = reader.offset() - range.offset;
    file.ranges[*key] = range;
  }
  return {};
}

/// Bytes of a tensor, or nullopt where they overflow. 0 for types that are not known here.
std::optional<std::uint64_t> tensor_bytes(const GgufTensor& tensor) {
  const GgmlType* type = ggml_type(tensor.type);
  if (type == nullptr) return 0;
  std::uint64_t elements = 1;
  for (const std::uint64_t dim : tensor.dims) {
    if (dim != 0 && elements > std::numeric_limits<std::uint64_t>::max() / 512 / dim) {
      return std::nullopt;
    }
    elements *= dim;
  }
  if (!tensor.dims.empty() && tensor.dims[0] % type->block_elements != 0) return std::nullopt;
  return elements / type->block_elements * type->block_bytes;
}

Result<GgufTensor> read_tensor(ForeignReader& reader) {
  GgufTensor tensor;
  const std::uint64_t at = reader.offset();
  auto name = read_string(reader, kMaxKeyBytes, "tensor.name");
  if (!name) return name.error();
  tensor.name = *std::move(name);
  auto count = reader.value<std::uint32_t>("tensor.n_dims");
  if (!count) return count.error();
  if (*count > kMaxDimensions) {
    return foreign_error(at, "tensor.n_dims", std::to_string(*count) + ", allowed are 0 to 4");
  }
  for (std::uint32_t i = 0; i < *count; ++i) {
    auto dim = reader.value<std::uint64_t>("tensor.dim");
    if (!dim) return dim.error();
    tensor.dims.push_back(*dim);
  }
  auto type = reader.value<std::uint32_t>("tensor.type");
  if (!type) return type.error();
  tensor.type = *type;
  auto offset = reader.value<std::uint64_t>("tensor.offset");
  if (!offset) return offset.error();
  tensor.offset = *offset;
  const auto size = tensor_bytes(tensor);
  if (!size) return foreign_error(at, "tensor.dim", "'" + tensor.name + "' has no possible size");
  tensor.size = *size;
  return tensor;
}

/// Tensor offsets count from the data, which starts at the next multiple of general.alignment.
Status place_tensors(ForeignReader& reader, GgufFile& file) {
  const std::uint64_t alignment = file.u64("general.alignment").value_or(32);
  if (alignment == 0 || (alignment & (alignment - 1)) != 0 || alignment > (1u << 20)) {
    return foreign_error(reader.offset(), "general.alignment", std::to_string(alignment));
  }
  const std::uint64_t data = (reader.offset() + alignment - 1) / alignment * alignment;
  file.alignment = alignment;
  file.data_offset = data;
  for (auto& tensor : file.tensors) {
    const bool inside = data <= file.file_size && tensor.offset <= file.file_size - data &&
                        tensor.size <= file.file_size - data - tensor.offset;
    if (!inside) {
      return Error{
          ErrorCode::kTruncated, kNoOffset, "tensor.offset",
          "'" + tensor.name + "' ends beyond the file's " + std::to_string(file.file_size) + " bytes"};
    }
    tensor.offset += data;
  }
  return {};
}

}  // namespace

std::optional<std::uint64_t> GgufFile::u64(const std::string& key) const {
  const auto found = keys.find(key);
  if (found == keys.end()) return std::nullopt;
  if (const auto* number = std::get_if<std::uint64_t>(&found->second)) return *number;
  const auto* number = std::get_if<std::int64_t>(&found->second);
  if (number == nullptr || *number < 0) return std::nullopt;
  return static_cast<std::uint64_t>(*number);
}

std::optional<double> GgufFile::f64(const std::string& key) const {
  const auto found = keys.find(key);
  if (found == keys.end()) return std::nullopt;
  const auto* number = std::get_if<double>(&found->second);
  return number == nullptr ? std::nullopt : std::optional(*number);
}

std::optional<std::string> GgufFile::text(const std::string& key) const {
  const auto found = keys.find(key);
  if (found == keys.end()) return std::nullopt;
  const auto* value = std::get_if<std::string>(&found->second);
  return value == nullptr ? std::nullopt : std::optional(*value);
}

Result<GgufFile> read_gguf(const ByteSource& source) {
  GgufFile file;
  file.file_size = source.size();
  ForeignReader reader(source, 0, kWindowBytes);
  auto magic = reader.value<std::uint32_t>("magic");
  if (!magic) return magic.error();
  if (*magic != kGgufMagic) return foreign_error(0, "magic", "not a GGUF file");
  auto version = reader.value<std::uint32_t>("version");
  if (!version) return version.error();
  file.version = *version;
  if (*version != 2 && *version != 3) {
    return foreign_error(4, "version", "GGUF version " + std::to_string(*version) + ", known are 2 and 3");
  }
  auto tensor_count = reader.value<std::uint64_t>("n_tensors");
  if (!tensor_count) return tensor_count.error();
  auto key_count = reader.value<std::uint64_t>("n_kv");
  if (!key_count) return key_count.error();
  auto status = read_keys(reader, *key_count, file);
  if (!status) return status.error();
  status = reader.expect(*tensor_count, 24, "n_tensors");
  if (status) status = check_count(*tensor_count, kMaxTensors, "n_tensors");
  if (!status) return status.error();
  for (std::uint64_t i = 0; i < *tensor_count; ++i) {
    auto tensor = read_tensor(reader);
    if (!tensor) return tensor.error();
    file.tensors.push_back(*std::move(tensor));
  }
  status = place_tensors(reader, file);
  if (!status) return status.error();
  return file;
}

}  // namespace cachecard::llama_cpp
