#include <catch2/catch.hpp>
#include <cmath>
#include <limits>

#include "c_api_card.hpp"
#include "cachecard/digest.hpp"

using namespace c_api_card;

namespace {

const std::string kText = "Sch\xC3\xB6n";
const double kFrequencies[] = {1.0, 0.5, 0.25};

ccd_rope_table table() {
  auto t = sized<ccd_rope_table>();
  t.layer = CCD_ALL_LAYERS;
  t.pairing = CCD_PAIRING_HALF_SPLIT;
  t.rotated_offset = 8;
  t.pair_count = 3;
  t.magnitude = 1.25;
  return t;
}

/// The usual card with a text and a RoPE table; empty where a call failed.
std::string described_bytes() {
  ccd_writer* writer = described_writer();
  const auto rope = table();
  std::string card;
  auto output = sized<ccd_output>();
  output.write = append;
  output.user = &card;
  const auto from = values();
  const auto options = write_options();
  if (ccd_writer_set_text(writer, kText.data(), kText.size(), nullptr) != CCD_OK ||
      ccd_writer_set_rope_table(writer, &rope, kFrequencies, nullptr) != CCD_OK ||
      ccd_writer_write_to(writer, &output, &from, &options, nullptr, nullptr) != CCD_OK) {
    card.clear();
  }
  ccd_writer_destroy(writer);
  return card;
}

}  // namespace

TEST_CASE("text comes back byte for byte, and is empty where the card has none", "[c_api]") {
  const Card card(described_bytes());
  std::size_t size = 0;
  REQUIRE(ccd_card_get_text(card.handle, nullptr, 0, &size, nullptr) == CCD_OK);
  CHECK(size == kText.size());
  std::string text(size, '?');
  CHECK(ccd_card_get_text(card.handle, text.data(), size - 1, nullptr, nullptr) == CCD_BUFFER_TOO_SMALL);
  CHECK(text == std::string(size, '?'));
  REQUIRE(ccd_card_get_text(card.handle, text.data(), size, nullptr, nullptr) == CCD_OK);
  CHECK(text == kText);
  CHECK(ccd_card_get_text(nullptr, nullptr, 0, &size, nullptr) == CCD_INVALID_ARGUMENT);

  const Card plain(bytes());
  REQUIRE(ccd_card_get_text(plain.handle, nullptr, 0, &size, nullptr) == CCD_OK);
  CHECK(size == 0);
}

TEST_CASE("a RoPE table holds for every layer", "[c_api]") {
  const Card card(described_bytes());
  for (const std::uint32_t layer : {0u, 2u, CCD_ALL_LAYERS}) {
    auto found = sized<ccd_rope_table>();
    std::size_t count = 0;
    REQUIRE(ccd_card_get_rope_table(card.handle, layer, &found, nullptr, 0, &count, nullptr) == CCD_OK);
    CHECK((count == 3 && found.pair_count == 3 && found.layer == CCD_ALL_LAYERS));
    CHECK((found.pairing == CCD_PAIRING_HALF_SPLIT && found.rotated_offset == 8 && found.magnitude == 1.25));
    double frequencies[3] = {};
    CHECK(ccd_card_get_rope_table(card.handle, layer, &found, frequencies, 2, nullptr, nullptr) ==
          CCD_BUFFER_TOO_SMALL);
    REQUIRE(ccd_card_get_rope_table(card.handle, layer, &found, frequencies, 3, nullptr, nullptr) == CCD_OK);
    CHECK(std::equal(frequencies, frequencies + 3, kFrequencies));
  }
  auto found = sized<ccd_rope_table>();
  CHECK(ccd_card_get_rope_table(card.handle, kLayers, &found, nullptr, 0, nullptr, nullptr) ==
        CCD_INVALID_ARGUMENT);
  CHECK(ccd_card_get_rope_table(card.handle, 0, nullptr, nullptr, 0, nullptr, nullptr) ==
        CCD_INVALID_ARGUMENT);
  const Card plain(bytes());
  ccd_error error;
  CHECK(ccd_card_get_rope_table(plain.handle, 0, &found, nullptr, 0, nullptr, &error) ==
        CCD_IDENTITY_UNKNOWN);
  CHECK(std::string(error.field) == "rope_table");
}

TEST_CASE("a RoPE table that means nothing is refused", "[c_api]") {
  ccd_writer* writer = described_writer();
  const auto refused = [&](auto change, const double* frequencies = kFrequencies) {
    auto changed = table();
    change(changed);
    return ccd_writer_set_rope_table(writer, &changed, frequencies, nullptr);
  };
  const double infinite[] = {1.0, std::numeric_limits<double>::infinity(), 0.25};
  CHECK(refused([](auto& t) { t.pairing = CCD_PAIRING_NONE; }) == CCD_INVALID_ARGUMENT);
  CHECK(refused([](auto& t) { t.pair_count = 0; }) == CCD_INVALID_ARGUMENT);
  CHECK(refused([](auto& t) { t.pair_count = (1u << 20) + 1; }) == CCD_INVALID_ARGUMENT);
  CHECK(refused([](auto& t) { t.layer = 0; }) == CCD_INVALID_ARGUMENT);
  CHECK(refused([](auto& t) { t.magnitude = std::nan(""); }) == CCD_NON_FINITE);
  CHECK(refused([](auto&) {}, infinite) == CCD_NON_FINITE);
  CHECK(refused([](auto&) {}, nullptr) == CCD_INVALID_ARGUMENT);
  CHECK(refused([](auto&) {}) == CCD_OK);
  CHECK(ccd_writer_set_text(writer, nullptr, 1, nullptr) == CCD_INVALID_ARGUMENT);
  CHECK(ccd_writer_set_text(nullptr, "a", 1, nullptr) == CCD_INVALID_ARGUMENT);
  ccd_writer_destroy(writer);
}

TEST_CASE("provenance says what was done", "[c_api]") {
  const Card card(bytes());
  std::uint32_t count = 0;
  REQUIRE(ccd_card_get_provenance_count(card.handle, &count, nullptr) == CCD_OK);
  REQUIRE(count == 1);
  auto step = sized<ccd_provenance_step>();
  char text[64] = {};
  std::size_t size = 0;
  REQUIRE(ccd_card_get_provenance(card.handle, 0, &step, text, sizeof(text), &size, nullptr) == CCD_OK);
  CHECK(std::string(text, size) == "made by test_c_api");
  CHECK((step.hop == 0 && step.operation == CCD_OPERATION_CONVERT && step.time == 0));
  CHECK(ccd_card_get_provenance(card.handle, 0, &step, text, 3, nullptr, nullptr) == CCD_BUFFER_TOO_SMALL);
  CHECK(ccd_card_get_provenance(card.handle, 1, &step, text, 3, nullptr, nullptr) == CCD_INVALID_ARGUMENT);
  CHECK(ccd_card_get_provenance(card.handle, 0, nullptr, text, 3, nullptr, nullptr) == CCD_INVALID_ARGUMENT);
  CHECK(ccd_card_get_provenance_count(card.handle, nullptr, nullptr) == CCD_INVALID_ARGUMENT);
}

TEST_CASE("a digest is that of the format", "[c_api]") {
  std::uint8_t digest[16] = {};
  REQUIRE(ccd_digest128(kText.data(), kText.size(), digest, nullptr) == CCD_OK);
  const auto expected = cachecard::digest128(std::as_bytes(std::span(kText)));
  CHECK(std::equal(expected.begin(), expected.end(), digest));
  CHECK(ccd_digest128(nullptr, 0, digest, nullptr) == CCD_OK);
  CHECK(ccd_digest128(nullptr, 1, digest, nullptr) == CCD_INVALID_ARGUMENT);
  CHECK(ccd_digest128("a", 1, nullptr, nullptr) == CCD_INVALID_ARGUMENT);
}
