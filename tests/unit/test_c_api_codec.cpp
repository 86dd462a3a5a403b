// The lossy codecs' settings through the C ABI: what they do to the card, and which are refused.
#include <algorithm>
#include <catch2/catch.hpp>
#include <functional>

#include "c_api_card.hpp"
#include "cachecard/profile.hpp"

using namespace c_api_card;

namespace {

constexpr std::uint32_t kWeightsDigest = 2;
constexpr unsigned char kDigest[16] = {4, 2};

/// A description whose weights have a digest and whose keys a RoPE table: a profile may speak for it.
struct Described {
  ccd_writer* writer = described_writer();
  Described() {
    const ccd_identity_value digest{kWeightsDigest, CCD_VALUE_DIGEST, kDigest, sizeof(kDigest)};
    REQUIRE(ccd_writer_set_identity(writer, &digest, nullptr) == CCD_OK);
    auto table = sized<ccd_rope_table>();
    table.layer = CCD_ALL_LAYERS;
    table.pairing = CCD_PAIRING_HALF_SPLIT;
    table.pair_count = kHeadDim / 2;
    table.magnitude = 1.0;
    const std::vector<double> frequencies(kHeadDim / 2, 0.01);
    REQUIRE(ccd_writer_set_rope_table(writer, &table, frequencies.data(), nullptr) == CCD_OK);
  }
  ~Described() { ccd_writer_destroy(writer); }
};

/// Key errors of layer 1 cost a hundred times those of its values; queries look along channel 0.
std::string profile_bytes(unsigned char digest = kDigest[0]) {
  using namespace cachecard;
  ModelProfile profile;
  profile.header.layer_count = kLayers;
  for (const std::uint32_t kind : {CCD_STREAM_KEY, CCD_STREAM_VALUE}) {
    StreamRecord stream;
    stream.layer = 1;
    stream.stream = static_cast<std::uint8_t>(kind);
    stream.dtype = static_cast<std::uint8_t>(DType::kF16);
    stream.kv_head_count = kHeads;
    stream.head_dim = kHeadDim;
    profile.header.streams.push_back(stream);
  }
  profile.header.identity.set_text(IdentityField::kModelName, "tiny");
  profile.header.identity.set_digest(IdentityField::kWeightsDigest, {digest, 2});
  ProfileLayer& layer = profile.layers.emplace_back();
  layer.record.layer = 1;
  layer.record.kv_head_count = layer.record.query_head_count = kHeads;
  layer.record.key_dim = layer.record.value_dim = kHeadDim;
  layer.record.centroid_count = 1;
  layer.record.attention_scale = 1.0f;
  layer.key_costs.assign(kHeads, 100.0f);
  layer.value_costs.assign(kHeads, 1.0f);
  layer.key_steps.assign(kHeads * kHeadDim, 128);
  layer.centroids.assign(kHeads * kHeadDim, 0.0f);
  for (std::uint32_t h = 0; h < kHeads; ++h) layer.centroids[h * kHeadDim] = 4.0f;
  layer.centroid_weights.assign(kHeads, 1.0f);
  MemorySink sink;
  REQUIRE(write_profile(profile, {}, sink));
  return {reinterpret_cast<const char*>(sink.bytes().data()), sink.bytes().size()};
}

/// Numbers that fall to both sides of zero, unlike c_api_card's.
ccd_status noisy_rows(void*, std::uint32_t layer, std::uint32_t kind, std::uint64_t first, std::uint64_t count, void* out,
                      std::size_t size) {
  read_rows(nullptr, layer, kind, first, count, out, size);
  if (layer != 1) return CCD_OK;
  const std::size_t width = size / count / kHeads / kHeadDim;  // 2: bf16, 4: f32
  auto* bytes = static_cast<unsigned char*>(out);
  for (std::size_t i = 0; i * width < size; ++i) {
    const auto state = static_cast<std::uint32_t>((first * kHeads * kHeadDim + i) * 2654435761u + layer + kind);
    const float number = static_cast<float>(static_cast<std::int32_t>(state ^ state >> 15)) / 2147483648.0f;
    std::uint32_t bits;
    std::memcpy(&bits, &number, 4);
    bits >>= 32 - 8 * width;
    std::memcpy(bytes + i * width, &bits, width);
  }
  return CCD_OK;
}

struct Attempt {
  std::string card;
  ccd_write_options options = write_options();
  ccd_write_report report = sized<ccd_write_report>();
  ccd_error error{};

  explicit Attempt(std::uint32_t codec) { options.codec = codec; }
  ccd_status write(const ccd_writer* writer) {
    card.clear();
    auto from = values();
    from.read_rows = noisy_rows;
    auto output = sized<ccd_output>();
    output.write = append;
    output.user = &card;
    return ccd_writer_write_to(writer, &output, &from, &options, &report, &error);
  }
  std::string message() const { return error.message; }
};

std::vector<std::uint16_t> widths(const std::string& bytes, std::uint32_t kind, std::uint32_t head = 0) {
  const Card card(bytes);
  std::vector<std::uint16_t> found(kTokens);
  REQUIRE(ccd_card_get_bit_widths(card.handle, 1, kind, head, 0, kTokens, found.data(), nullptr) == CCD_OK);
  return found;
}

}  // namespace

TEST_CASE("entropy meets the bits that were asked for, and comes back", "[c_api]") {
  const Described d;
  Attempt small(CCD_CODEC_ENTROPY);
  small.options.bits = 3.0;
  Attempt large = small;
  large.options.bits = 5.0;
  for (Attempt* attempt : {&small, &large}) {
    REQUIRE(attempt->write(d.writer) == CCD_OK);
    auto verified = sized<ccd_verify_report>();
    CHECK(ccd_verify_bytes(attempt->card.data(), attempt->card.size(), CCD_VERIFY_DECODE, nullptr, &verified, nullptr) == CCD_OK);
  }
  CHECK(small.card.size() < large.card.size());
}

TEST_CASE("entropy stays within the bytes that the file may take", "[c_api]") {
  const Described d;
  Attempt attempt(CCD_CODEC_ENTROPY);
  attempt.options.bits = 3.0;
  REQUIRE(attempt.write(d.writer) == CCD_OK);
  const std::uint64_t most = attempt.card.size() * 3 / 2;
  attempt.options.file_bytes = most;
  CHECK(attempt.write(d.writer) == CCD_INVALID_ARGUMENT);
  CHECK(attempt.message().find("in place of bits") != std::string::npos);
  attempt.options.bits = 0.0;
  REQUIRE(attempt.write(d.writer) == CCD_OK);
  CHECK(attempt.card.size() <= most);
  CHECK(attempt.card.size() >= most - most / 200);
  CHECK(attempt.report.file_size == attempt.card.size());

  attempt.options.file_bytes = 100;
  CHECK(attempt.write(d.writer) == CCD_INVALID_ARGUMENT);
  CHECK(attempt.error.field == std::string("file_bytes"));
  const std::string mark = "the smallest card takes ";
  REQUIRE(attempt.message().find(mark) != std::string::npos);
  CHECK(attempt.card.empty());
  attempt.options.file_bytes = std::stoull(attempt.message().substr(attempt.message().find(mark) + mark.size()));
  CHECK(attempt.write(d.writer) == CCD_OK);
}

TEST_CASE("exact tokens of entropy stay as they are", "[c_api]") {
  const Described d;
  Attempt attempt(CCD_CODEC_ENTROPY);
  attempt.options.bits = 4.0;
  attempt.options.flags = CCD_WRITE_EXACT_TOKENS;
  attempt.options.exact_tokens = 2;
  REQUIRE(attempt.write(d.writer) == CCD_OK);
  const auto found = widths(attempt.card, CCD_STREAM_VALUE);
  CHECK((found[0] == 64 && found[1] == 64));
  CHECK((found[2] < 32 && found[3] < 32 && found[4] < 32));
}

TEST_CASE("token weights say how finely entropy keeps each token", "[c_api]") {
  const Described d;
  Attempt attempt(CCD_CODEC_ENTROPY);
  attempt.options.bits = 4.0;
  std::vector<float> weights(2 * kHeads * kTokens, 1.0f);  // layers 0 and 1; the opaque layer has no heads
  for (std::size_t t = 200; t < 220; ++t) weights[(kHeads + 1) * kTokens + t] = 200.0f;  // layer 1, head 1
  attempt.options.token_weights = weights.data();
  attempt.options.weight_count = weights.size();
  REQUIRE(attempt.write(d.writer) == CCD_OK);
  for (const std::uint32_t kind : {CCD_STREAM_KEY, CCD_STREAM_VALUE}) {
    const auto other = widths(attempt.card, kind, 0);
    const auto found = widths(attempt.card, kind, 1);
    CHECK(other[199] == other[205]);
    CHECK(found[205] > found[199]);
  }
  attempt.options.weight_count = kTokens;  // one row for all
  REQUIRE(attempt.write(d.writer) == CCD_OK);

  const auto refused = [&](std::size_t count, const std::string& words) {
    attempt.options.weight_count = count;
    CHECK(attempt.write(d.writer) == CCD_INVALID_ARGUMENT);
    CHECK(attempt.message().find(words) != std::string::npos);
  };
  refused(kTokens + 1, "1 or 4 rows");
  refused(0, "go together");
  weights[kTokens + 7] = -1.0f;
  refused(weights.size(), "row 1, token 7");
}

TEST_CASE("a profile weighs heads, queries and layers", "[c_api]") {
  const Described d;
  const Card profile(profile_bytes());
  REQUIRE(profile.handle != nullptr);
  Attempt plain(CCD_CODEC_ENTROPY);
  plain.options.bits = 4.0;
  plain.options.queries = CCD_QUERIES_NONE;
  REQUIRE(plain.write(d.writer) == CCD_OK);
  Attempt profiled = plain;
  profiled.options.profile = profile.handle;
  REQUIRE(profiled.write(d.writer) == CCD_OK);
  CHECK(profiled.card != plain.card);
  Attempt looked = profiled;
  looked.options.queries = CCD_QUERIES_CENTROIDS;
  REQUIRE(looked.write(d.writer) == CCD_OK);
  CHECK(looked.card != profiled.card);
  Attempt recent = plain;
  recent.options.queries = CCD_QUERIES_RECENCY;
  REQUIRE(recent.write(d.writer) == CCD_OK);
  const auto by_recency = widths(recent.card, CCD_STREAM_KEY);
  CHECK(by_recency.back() > by_recency[100]);

  Attempt planes(CCD_CODEC_PLANES);
  planes.options.profile = profile.handle;
  REQUIRE(planes.write(d.writer) == CCD_OK);
  CHECK(widths(planes.card, CCD_STREAM_KEY)[100] > widths(planes.card, CCD_STREAM_VALUE)[100]);

  Attempt needs = plain;
  needs.options.queries = CCD_QUERIES_NEWEST;
  CHECK(needs.write(d.writer) == CCD_INVALID_ARGUMENT);
  CHECK(needs.message().find("profile") != std::string::npos);
  CHECK(needs.card.empty());
}

TEST_CASE("a profile of another model, and a card that is none, are refused", "[c_api]") {
  const Described d;
  for (const std::uint32_t codec : {CCD_CODEC_ENTROPY, CCD_CODEC_PLANES}) {
    Attempt attempt(codec);
    const Card other(profile_bytes(9));
    attempt.options.profile = other.handle;
    CHECK(attempt.write(d.writer) == CCD_MODEL_MISMATCH);
    CHECK(attempt.message().find("profile: it is of model 'tiny'") != std::string::npos);
    const Card none(bytes());
    attempt.options.profile = none.handle;
    CHECK(attempt.write(d.writer) == CCD_INVALID_ARGUMENT);
    CHECK(attempt.card.empty());
  }
}

TEST_CASE("planes take bits by layer, and the newest tokens a bit more", "[c_api]") {
  const Described d;
  Attempt attempt(CCD_CODEC_PLANES);
  std::vector<std::uint8_t> bits{4, 4, 6, 2, 4, 4};
  attempt.options.layer_bits = bits.data();
  attempt.options.newest_tokens = 3;
  REQUIRE(attempt.write(d.writer) == CCD_OK);
  const auto keys = widths(attempt.card, CCD_STREAM_KEY);
  const auto their_values = widths(attempt.card, CCD_STREAM_VALUE);
  CHECK((keys[100] == 12 && keys.back() == 14));
  CHECK((their_values[100] == 4 && their_values.back() == 6));
  bits[2] = 9;
  CHECK(attempt.write(d.writer) == CCD_INVALID_ARGUMENT);
  CHECK(attempt.card.empty());
}

TEST_CASE("settings that a codec has no use for are refused", "[c_api]") {
  const Described d;
  const Card profile(profile_bytes());
  const std::vector<float> weights(kTokens, 1.0f);
  const std::vector<std::uint8_t> bits(2 * kTokens, 4);
  const auto refused = [&](std::uint32_t codec, const std::function<void(ccd_write_options&)>& change) {
    Attempt attempt(codec);
    change(attempt.options);
    INFO(attempt.message());
    CHECK(attempt.write(d.writer) == CCD_INVALID_ARGUMENT);
    CHECK(attempt.card.empty());
  };
  const auto weigh = [&](ccd_write_options& o) {
    o.token_weights = weights.data();
    o.weight_count = weights.size();
  };
  for (const std::uint32_t codec : {CCD_CODEC_EXACT, CCD_CODEC_PLANES}) {
    refused(codec, weigh);
    refused(codec, [](auto& o) { o.queries = CCD_QUERIES_RECENCY; });
    refused(codec, [](auto& o) { o.bits = 2.0; });
    refused(codec, [](auto& o) { o.file_bytes = 1u << 20; });
  }
  for (const std::uint32_t codec : {CCD_CODEC_EXACT, CCD_CODEC_ENTROPY}) {
    refused(codec, [&](auto& o) { o.layer_bits = bits.data(); });
  }
  refused(CCD_CODEC_EXACT, [&](auto& o) { o.profile = profile.handle; });
  refused(CCD_CODEC_EXACT, [](auto& o) { o.newest_tokens = 1; });
  refused(CCD_CODEC_ENTROPY, [&](auto& o) { o.token_bits = bits.data(); });
  for (const double wrong : {0.01, 5000.0, -1.0}) refused(CCD_CODEC_ENTROPY, [&](auto& o) { o.bits = wrong; });
  refused(CCD_CODEC_ENTROPY, [](auto& o) { o.queries = 5; });
  refused(CCD_CODEC_ENTROPY, [&](auto& o) {
    weigh(o);
    o.queries = CCD_QUERIES_NONE;
  });
  refused(CCD_CODEC_PLANES, [&](auto& o) {
    o.profile = profile.handle;
    o.layer_bits = bits.data();
  });
  refused(4, [](auto&) {});
}
