#include "chunk_filter.hpp"

#include <zlib.h>

#include <cstring>

namespace cachecard::hdf5 {
namespace {

/// The width is known at compile time for the types that matter, so that the loops become vector code.
template <std::size_t kWidth>
void shuffle_fixed(const std::byte* in, std::size_t count, std::byte* out) {
  for (std::size_t i = 0; i < count; ++i) {
    for (std::size_t k = 0; k < kWidth; ++k) out[k * count + i] = in[i * kWidth + k];
  }
}

template <std::size_t kWidth>
void unshuffle_fixed(const std::byte* in, std::size_t count, std::byte* out) {
  for (std::size_t i = 0; i < count; ++i) {
    for (std::size_t k = 0; k < kWidth; ++k) out[i * kWidth + k] = in[k * count + i];
  }
}

}  // namespace

void shuffle(std::span<const std::byte> in, std::size_t element_bytes, std::span<std::byte> out) {
  const std::size_t count = in.size() / element_bytes;
  if (element_bytes == 1) {
    std::memcpy(out.data(), in.data(), in.size());
  } else if (element_bytes == 2) {
    shuffle_fixed<2>(in.data(), count, out.data());
  } else if (element_bytes == 4) {
    shuffle_fixed<4>(in.data(), count, out.data());
  } else {
    for (std::size_t k = 0; k < element_bytes; ++k) {
      for (std::size_t i = 0; i < count; ++i) out[k * count + i] = in[i * element_bytes + k];
    }
  }
}

void unshuffle(std::span<const std::byte> in, std::size_t element_bytes, std::span<std::byte> out) {
  const std::size_t count = in.size() / element_bytes;
  if (element_bytes == 1) {
    std::memcpy(out.data(), in.data(), in.size());
  } else if (element_bytes == 2) {
    unshuffle_fixed<2>(in.data(), count, out.data());
  } else if (element_bytes == 4) {
    unshuffle_fixed<4>(in.data(), count, out.data());
  } else {
    for (std::size_t k = 0; k < element_bytes; ++k) {
      for (std::size_t i = 0; i < count; ++i) out[i * element_bytes + k] = in[k * count + i];
    }
  }
}

std::size_t deflate_bound(std::size_t size) { return compressBound(size); }

std::size_t deflate(std::span<const std::byte> in, int level, std::span<std::byte> out) {
  uLongf size = out.size();
  const int done = compress2(reinterpret_cast<Bytef*>(out.data()), &size, reinterpret_cast<const Bytef*>(in.data()),
                             in.size(), level);
  return done == Z_OK && size < in.size() ? size : 0;
}

Status inflate(std::span<const std::byte> in, std::span<std::byte> out) {
  uLongf size = out.size();
  uLong taken = in.size();
  const int done = uncompress2(reinterpret_cast<Bytef*>(out.data()), &size, reinterpret_cast<const Bytef*>(in.data()),
                               &taken);
  if (done == Z_OK && size == out.size()) return {};
  if (done == Z_MEM_ERROR) return Error{ErrorCode::kOutOfMemory, kNoOffset, {}, "no memory to inflate"};
  const std::string found = done == Z_BUF_ERROR ? "more or fewer" : done == Z_OK ? std::to_string(size) : "no";
  return Error{ErrorCode::kCorrupt, kNoOffset, {},
               "deflate: found " + found + " bytes, the chunk has " + std::to_string(out.size())};
}

}  // namespace cachecard::hdf5
