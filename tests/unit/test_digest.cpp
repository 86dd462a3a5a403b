#include <catch2/catch.hpp>
#include <numeric>

#include "cachecard/card.hpp"
#include "cachecard/digest.hpp"

using namespace cachecard;

namespace {

std::vector<std::byte> counting(std::size_t size) {
  std::vector<std::byte> bytes(size);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(i);
  return bytes;
}

}  // namespace

TEST_CASE("digests are XXH3, as other implementations compute them", "[unit]") {
  // source: python-xxhash 3.5, xxh3_64_hexdigest and xxh3_128_hexdigest
  const std::string_view abc = "abc";
  CHECK(digest64({}) == 0x2d06800538d394c2);
  CHECK(to_hex(digest128({})) == "99aa06d3014798d86001c324468d497f");
  CHECK(digest64(std::as_bytes(std::span(abc))) == 0x78af5f94892f3950);
  CHECK(to_hex(digest128(std::as_bytes(std::span(abc)))) == "06b05ab6733a618578af5f94892f3950");
  CHECK(digest64(counting(1024)) == 0xa870f92984398d22);
  CHECK(to_hex(digest128(counting(1024))) == "83885e853bb6640ca870f92984398d22");
}

TEST_CASE("a digest does not depend on how the bytes come in pieces", "[unit]") {
  const auto bytes = counting(3000);
  for (std::size_t piece : {1u, 7u, 64u, 255u, 1024u, 2999u}) {
    Digester digester;
    for (std::size_t at = 0; at < bytes.size(); at += piece) {
      digester.update(std::span(bytes).subspan(at, std::min(piece, bytes.size() - at)));
    }
    CHECK(digester.finish64() == digest64(bytes));
    CHECK(digester.finish128() == digest128(bytes));
  }
}

TEST_CASE("finish128_with leaves the digester as it was, and reset starts anew", "[unit]") {
  const auto bytes = counting(600);
  Digester digester;
  digester.update(std::span(bytes).first(500));
  CHECK(digester.finish128_with(std::span(bytes).subspan(500)) == digest128(bytes));
  CHECK(digester.finish128() == digest128(std::span(bytes).first(500)));
  digester.reset();
  CHECK(digester.finish64() == digest64({}));
}

TEST_CASE("hex digests go there and back, and nothing else is one", "[unit]") {
  const Digest128 digest = digest128(counting(5));
  CHECK(digest_from_hex(to_hex(digest)) == digest);
  CHECK_FALSE(digest_from_hex("12"));
  CHECK_FALSE(digest_from_hex(std::string(31, '0') + "g"));
  CHECK_FALSE(digest_from_hex(std::string(32, 'A')));
}
