#include "safetensors_file.hpp"

#include <algorithm>
#include <array>
#include <cstring>

#include "header_events.hpp"

namespace cachecard::safetensors {
namespace {

/// source: safetensors tensor.rs enum Dtype; those of whole bytes
struct FileType {
  std::string_view name;
  std::uint64_t bytes;
};
constexpr std::array kTypes{FileType{"BOOL", 1},    FileType{"U8", 1},      FileType{"I8", 1},
                            FileType{"F8_E5M2", 1}, FileType{"F8_E4M3", 1}, FileType{"F8_E8M0", 1},
                            FileType{"I16", 2},     FileType{"U16", 2},     FileType{"F16", 2},
                            FileType{"BF16", 2},    FileType{"I32", 4},     FileType{"U32", 4},
                            FileType{"F32", 4},     FileType{"F64", 8},     FileType{"I64", 8},
                            FileType{"U64", 8},     FileType{"C64", 8}};

Status check_size(const SafeTensor& tensor) {
  const auto type =
      std::find_if(kTypes.begin(), kTypes.end(), [&](const FileType& t) { return t.name == tensor.dtype; });
  if (type == kTypes.end()) {
    return tensors_error(shown(tensor.name), "found dtype " + shown(tensor.dtype) + ", which is not known");
  }
  std::uint64_t size = type->bytes;
  for (const std::uint64_t dim : tensor.shape) {
    if (dim != 0 && size > ~std::uint64_t{0} / dim)
      return tensors_error(shown(tensor.name), "its shape has no possible size");
    size *= dim;
  }
  if (size == tensor.size) return {};
  return tensors_error(shown(tensor.name), "found data_offsets of " + std::to_string(tensor.size) +
                                               " bytes, its shape has " + std::to_string(size));
}

/// As the format's own reader asks: no overlap, no gap, nothing behind.
Status place(SafetensorsFile& file, std::uint64_t data_offset, std::uint64_t data_size) {
  std::stable_sort(file.tensors.begin(), file.tensors.end(), [](const SafeTensor& a, const SafeTensor& b) {
    return a.offset != b.offset ? a.offset < b.offset : a.size < b.size;
  });
  std::uint64_t next = 0;
  for (SafeTensor& tensor : file.tensors) {
    if (Status s = check_size(tensor); !s) return s;
    if (tensor.offset != next) {
      return tensors_error(shown(tensor.name), "found data_offsets from " + std::to_string(tensor.offset) +
                                                   ", allowed " + std::to_string(next) +
                                                   ": tensors neither overlap nor leave gaps");
    }
    if (tensor.size > data_size - next) {
      return Error{ErrorCode::kTruncated, kNoOffset, shown(tensor.name),
                   "it ends at " + std::to_string(next + tensor.size) + ", the file has " +
                       std::to_string(data_size) + " bytes of data"};
    }
    next += tensor.size;
    tensor.offset += data_offset;
  }
  if (next == data_size) return {};
  return tensors_error("data", "found " + std::to_string(data_size - next) + " bytes behind the last tensor");
}

}  // namespace

std::string shown(std::string_view name) {
  std::string text = "'";
  for (const char c : name.substr(0, 80)) text += c >= ' ' && c <= '~' ? c : '?';
  return text + (name.size() > 80 ? "...'" : "'");
}

bool looks_like_safetensors(std::span<const std::byte> head) {
  if (head.size() < 9 || head[8] != std::byte{'{'}) return false;
  std::uint64_t size = 0;
  std::memcpy(&size, head.data(), sizeof(size));
  return size >= 2 && size < (std::uint64_t{1} << 32);
}

Result<SafetensorsFile> read_safetensors(const ByteSource& source) {
  std::uint64_t size = 0;
  if (Status s = source.read_at(0, std::as_writable_bytes(std::span(&size, 1))); !s) return s.error();
  if (size > kMaxHeaderBytes) {
    return Error{ErrorCode::kLimitExceeded, 0, "header",
                 "found " + std::to_string(size) + " bytes, allowed " + std::to_string(kMaxHeaderBytes)};
  }
  if (size > source.size() - sizeof(size)) {
    return Error{
        ErrorCode::kTruncated, 0, "header",
        std::to_string(size) + " bytes wanted, " + std::to_string(source.size() - sizeof(size)) + " left"};
  }
  std::string text(static_cast<std::size_t>(size), '\0');
  if (Status s = source.read_at(sizeof(size), std::as_writable_bytes(std::span(text))); !s) return s.error();
  HeaderEvents events;
  if (!nlohmann::json::sax_parse(text, &events)) return events.error;
  SafetensorsFile file = std::move(events.file);
  const std::uint64_t data_offset = sizeof(size) + size;
  if (Status s = place(file, data_offset, source.size() - data_offset); !s) return s.error();
  return file;
}

std::optional<DType> dtype_of(std::string_view name) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBf16}) {
    if (name == name_of_dtype(dtype)) return dtype;
  }
  return std::nullopt;
}

std::string_view name_of_dtype(DType dtype) {
  return dtype == DType::kF16 ? "F16" : dtype == DType::kBf16 ? "BF16" : "F32";
}

}  // namespace cachecard::safetensors
