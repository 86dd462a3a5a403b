#include "cachecard/digest.hpp"

#include <new>

#define XXH_INLINE_ALL
#define XXH_STATIC_LINKING_ONLY
#include <xxhash.h>

namespace cachecard {
namespace {

Digest128 canonical(XXH128_hash_t hash) {
  XXH128_canonical_t bytes;
  XXH128_canonicalFromHash(&bytes, hash);
  Digest128 digest;
  std::memcpy(digest.data(), bytes.digest, digest.size());
  return digest;
}

}  // namespace

// XXH3's state wants 64-byte alignment, which operator new gives to over-aligned types.
struct Digester::State {
  XXH3_state_t xxh;
};

Digester::Digester() : state_(std::make_unique<State>()) { reset(); }
Digester::Digester(Digester&&) noexcept = default;
Digester& Digester::operator=(Digester&&) noexcept = default;
Digester::~Digester() = default;

// 64- and 128-bit results come from one state: their accumulators are the same.
void Digester::reset() noexcept { XXH3_128bits_reset(&state_->xxh); }
void Digester::update(std::span<const std::byte> bytes) noexcept {
  XXH3_128bits_update(&state_->xxh, bytes.data(), bytes.size());
}
std::uint64_t Digester::finish64() const noexcept { return XXH3_64bits_digest(&state_->xxh); }
Digest128 Digester::finish128() const noexcept {
  return canonical(XXH3_128bits_digest(&state_->xxh));
}

Digest128 Digester::finish128_with(std::span<const std::byte> last) const noexcept {
  State copy = *state_;
  XXH3_128bits_update(&copy.xxh, last.data(), last.size());
  return canonical(XXH3_128bits_digest(&copy.xxh));
}

std::uint64_t digest64(std::span<const std::byte> bytes) noexcept {
  return XXH3_64bits(bytes.data(), bytes.size());
}
Digest128 digest128(std::span<const std::byte> bytes) noexcept {
  return canonical(XXH3_128bits(bytes.data(), bytes.size()));
}

}  // namespace cachecard
