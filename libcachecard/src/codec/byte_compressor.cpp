#include "codec/byte_compressor.hpp"

#include <cstring>
#include <string>

#include <zstd.h>

namespace cachecard {
namespace {

/// Byte k of every element, for k = 0, 1, ... spec: CODECS.md#byte-split
void split(std::span<const std::byte> in, std::size_t element_size, std::span<std::byte> out) {
  const std::size_t n = in.size() / element_size;
  for (std::size_t k = 0; k < element_size; ++k) {
    for (std::size_t i = 0; i < n; ++i) out[k * n + i] = in[i * element_size + k];
  }
}

void unsplit(std::span<const std::byte> in, std::size_t element_size, std::span<std::byte> out) {
  const std::size_t n = in.size() / element_size;
  for (std::size_t k = 0; k < element_size; ++k) {
    for (std::size_t i = 0; i < n; ++i) out[i * element_size + k] = in[k * n + i];
  }
}

Status inflate(std::span<const std::byte> stored, std::span<std::byte> out) {
  const std::size_t got = ZSTD_decompress(out.data(), out.size(), stored.data(), stored.size());
  if (ZSTD_isError(got)) {
    return Error{ErrorCode::kCorrupt, kNoOffset, "payload", std::string("zstd: ") + ZSTD_getErrorName(got)};
  }
  if (got != out.size()) {
    return Error{ErrorCode::kCorrupt, kNoOffset, "payload",
                 "zstd gave " + std::to_string(got) + " bytes, allowed " + std::to_string(out.size())};
  }
  return {};
}

}  // namespace

Result<std::vector<std::byte>> compress(Compressor compressor, std::span<const std::byte> in,
                                        std::size_t element_size, int zstd_level) {
  std::vector<std::byte> planes;
  std::span<const std::byte> source = in;
  if (compressor == Compressor::kSplitZstd) {
    planes.resize(in.size());
    split(in, element_size, planes);
    source = planes;
  }
  std::vector<std::byte> out(ZSTD_compressBound(source.size()));
  const std::size_t size = ZSTD_compress(out.data(), out.size(), source.data(), source.size(), zstd_level);
  if (ZSTD_isError(size)) {
    return Error{ErrorCode::kInternal, kNoOffset, {}, std::string("zstd: ") + ZSTD_getErrorName(size)};
  }
  out.resize(size < in.size() ? size : 0);
  return out;
}

std::size_t decompress_scratch(Compressor compressor, std::size_t decoded_size) {
  return compressor == Compressor::kSplitZstd ? decoded_size : 0;
}

Status decompress(Compressor compressor, std::span<const std::byte> stored, std::size_t element_size,
                  std::span<std::byte> out, std::span<std::byte> scratch) {
  switch (compressor) {
    case Compressor::kNone:
      if (!out.empty()) std::memcpy(out.data(), stored.data(), out.size());
      return {};
    case Compressor::kZstd:
      return inflate(stored, out);
    case Compressor::kSplitZstd: {
      const auto planes = scratch.first(out.size());
      if (Status s = inflate(stored, planes); !s) return s;
      unsplit(planes, element_size, out);
      return {};
    }
  }
  return Error{ErrorCode::kUnsupportedCodec, kNoOffset, "frame_header.compressor",
               "found " + std::to_string(static_cast<int>(compressor)) + ", allowed 0 to 2"};
}

}  // namespace cachecard
