#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "cachecard/profile.hpp"

using namespace cachecard;

namespace {

std::vector<float> random_floats(std::size_t count, std::mt19937& random) {
  std::vector<float> out(count);
  for (float& v : out) v = static_cast<float>(random() % 2001) / 1000.0f - 1.0f;
  return out;
}

/// Two KV heads, four query heads, a map of rank 3, five centroids a head.
ProfileLayer small_layer(std::uint32_t number = 7) {
  std::mt19937 random(11);
  ProfileLayer layer;
  layer.record.layer = number;
  layer.record.kv_head_count = 2;
  layer.record.query_head_count = 4;
  layer.record.key_dim = 6;
  layer.record.value_dim = 3;
  layer.record.map_rank = 3;
  layer.record.centroid_count = 5;
  layer.record.attention_scale = 0.125f;
  layer.key_costs = {0.0f, 1e-3f};
  layer.value_costs = {2.5f, 1e-9f};
  for (int i = 0; i < 12; ++i) layer.key_steps.push_back(static_cast<std::uint8_t>(96 + 5 * i));
  layer.map_down = random_floats(3 * layer.input_count(), random);
  layer.map_up = random_floats(layer.query_width() * 3, random);
  layer.centroids = random_floats(4 * 5 * 6, random);
  for (int i = 0; i < 4; ++i) {
    for (const float weight : {0.5f, 0.25f, 0.125f, 0.125f, 0.0f}) layer.centroid_weights.push_back(weight);
  }
  return layer;
}

double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  double most = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(double{a[i]} - double{b[i]}));
  return most;
}

/// Where each array of small_layer's payload begins.
struct Places {
  std::size_t costs = 48, steps = costs + 4 * 4, down_scales = steps + 12, down = down_scales + 2 * 19, up_scales = down + 3 * 19,
              up = up_scales + 2 * 24, centroid_scales = up + 24 * 3, weights = centroid_scales + 2 * 20, centroids = weights + 2 * 20,
              end = centroids + 20 * 6;
};

template <class Number>
void put_number(std::vector<std::byte>& payload, std::size_t at, Number number) {
  std::memcpy(payload.data() + at, &number, sizeof number);
}

void check_refused(const std::vector<std::byte>& payload, ErrorCode code, std::string_view field) {
  const auto parsed = parse_profile_layer(payload);
  REQUIRE_FALSE(parsed);
  CHECK(parsed.error().code == code);
  CHECK(parsed.error().field == field);
}

ModelProfile small_profile() {
  ModelProfile profile;
  profile.header.layer_count = 9;
  for (const StreamKind kind : {StreamKind::kKey, StreamKind::kValue}) {
    StreamRecord stream;
    stream.layer = 7;
    stream.stream = static_cast<std::uint8_t>(kind);
    stream.dtype = static_cast<std::uint8_t>(DType::kF16);
    stream.kv_head_count = 2;
    stream.head_dim = kind == StreamKind::kKey ? 6 : 3;
    stream.token_count = 40;  // write_profile makes it none
    profile.header.streams.push_back(stream);
  }
  profile.header.identity.set_text(IdentityField::kArchitecture, "llama");
  profile.layers = {small_layer(7)};
  return profile;
}

}  // namespace

TEST_CASE("a profile's layer comes back as its codes hold it", "[unit]") {
  const ProfileLayer layer = small_layer();
  const auto payload = encode_profile_layer(layer);
  CHECK(payload.size() == Places().end);
  const auto parsed = parse_profile_layer(payload);
  REQUIRE(parsed);
  CHECK(parsed->record.layer == 7);
  CHECK(parsed->record.attention_scale == 0.125f);
  CHECK(parsed->key_costs == layer.key_costs);
  CHECK(parsed->value_costs == layer.value_costs);
  CHECK(parsed->key_steps == layer.key_steps);
  const double half_step = 0.51 / 127.0;  // of magnitudes up to 1
  CHECK(largest_difference(parsed->map_down, layer.map_down) < half_step);
  CHECK(largest_difference(parsed->map_up, layer.map_up) < half_step);
  CHECK(largest_difference(parsed->centroids, layer.centroids) < half_step);
  CHECK(largest_difference(parsed->centroid_weights, layer.centroid_weights) < 1e-5);
  CHECK(encode_profile_layer(*parsed) == payload);
}

TEST_CASE("a large constant takes nothing from the other inputs of the map", "[unit]") {
  ProfileLayer layer = small_layer();
  const std::size_t inputs = layer.input_count();
  for (std::size_t r = 0; r < 3; ++r) layer.map_down[r * inputs + inputs - 1] = 500.0f;
  const auto parsed = parse_profile_layer(encode_profile_layer(layer));
  REQUIRE(parsed);
  for (std::size_t i = 0; i < 3 * inputs; ++i) {
    INFO(i);
    CHECK(std::abs(parsed->map_down[i] - layer.map_down[i]) < (i % inputs == inputs - 1 ? 2.5 : 0.51 / 127.0));
  }
}

TEST_CASE("a profile's layer needs neither map nor centroids", "[unit]") {
  ProfileLayer layer = small_layer();
  layer.record.map_rank = 0;
  layer.record.centroid_count = 0;
  layer.map_down.clear();
  layer.map_up.clear();
  layer.centroids.clear();
  layer.centroid_weights.clear();
  const auto payload = encode_profile_layer(layer);
  CHECK(payload.size() == Places().down_scales);
  const auto parsed = parse_profile_layer(payload);
  REQUIRE(parsed);
  CHECK(parsed->map_down.empty());
  CHECK(parsed->centroids.empty());
}

TEST_CASE("a profile's layer is refused by field", "[malformed]") {
  const auto good = encode_profile_layer(small_layer());
  const auto with = [&](auto member, auto value) {
    auto payload = good;
    ProfileRecord record = load<ProfileRecord>(payload);
    record.*member = value;
    store(record, payload);
    return payload;
  };
  using R = ProfileRecord;
  const auto field = [](std::string_view name) { return "model_profile." + std::string(name); };
  check_refused(with(&R::record_size, 52u), ErrorCode::kBadSize, field("record_size"));
  for (const std::uint32_t wrong : {0u, 4097u}) {
    check_refused(with(&R::kv_head_count, wrong), ErrorCode::kBadSize, field("kv_head_count"));
    check_refused(with(&R::query_head_count, wrong), ErrorCode::kBadSize, field("query_head_count"));
    check_refused(with(&R::key_dim, wrong), ErrorCode::kBadSize, field("key_dim"));
    check_refused(with(&R::value_dim, wrong), ErrorCode::kBadSize, field("value_dim"));
  }
  check_refused(with(&R::map_rank, 4097u), ErrorCode::kBadSize, field("map_rank"));
  check_refused(with(&R::centroid_count, 1025u), ErrorCode::kBadSize, field("centroid_count"));
  check_refused(with(&R::query_head_count, 5u), ErrorCode::kCorrupt, field("query_head_count"));
  check_refused(with(&R::map_rank, 4096u), ErrorCode::kBadSize, "model_profile");
  for (const float wrong : {0.0f, -1.0f, std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    check_refused(with(&R::attention_scale, wrong), ErrorCode::kNonFinite, field("attention_scale"));
  }
  auto reserved = good;
  reserved[40] = std::byte{1};
  check_refused(reserved, ErrorCode::kReservedNotZero, field("reserved"));
}

TEST_CASE("a profile's arrays are refused where they are no numbers", "[malformed]") {
  const auto good = encode_profile_layer(small_layer());
  for (const std::size_t size : {std::size_t{0}, std::size_t{47}, Places().steps, good.size() - 1}) {
    INFO(size);
    check_refused({good.begin(), good.begin() + static_cast<std::ptrdiff_t>(size)}, ErrorCode::kBadSize, "model_profile");
  }
  auto longer = good;
  longer.emplace_back();
  check_refused(longer, ErrorCode::kBadSize, "model_profile");
  for (const float wrong : {-1e-9f, std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    for (std::size_t i = 0; i < 4; ++i) {
      auto payload = good;
      put_number(payload, Places().costs + 4 * i, wrong);
      check_refused(payload, ErrorCode::kNonFinite, "model_profile");
    }
  }
  for (const std::size_t at : {Places().down_scales, Places().down - 2, Places().up_scales, Places().centroid_scales}) {
    auto payload = good;
    put_number(payload, at, std::uint16_t{0x7C00});
    check_refused(payload, ErrorCode::kNonFinite, "model_profile");
  }
}

TEST_CASE("a profile is a card of no tokens that comes back", "[unit]") {
  const ModelProfile profile = small_profile();
  MemorySink sink;
  const ProvenanceEntry entry{0, ProvenanceOp::kCapture, 0, {}, "made by a test"};
  REQUIRE(write_profile(profile, entry, sink));
  const MemorySource bytes(sink.bytes());
  const auto card = CardReader::open(bytes);
  REQUIRE(card);
  CHECK(card->header().token_count == 0);
  const auto read = read_profile(*card);
  REQUIRE(read);
  REQUIRE(read->layers.size() == 1);
  CHECK(read->find(7) == &read->layers[0]);
  CHECK(read->find(6) == nullptr);
  CHECK(read->layers[0].key_steps == profile.layers[0].key_steps);
  CHECK(read->header.identity == profile.header.identity);
}

TEST_CASE("layers of a profile that do not ascend are refused, and cards without any", "[malformed]") {
  ModelProfile profile = small_profile();
  profile.layers.push_back(small_layer(7));
  for (const bool empty : {false, true}) {
    if (empty) profile.layers.clear();
    MemorySink sink;
    REQUIRE(write_profile(profile, {}, sink));
    const MemorySource bytes(sink.bytes());
    const auto card = CardReader::open(bytes);
    REQUIRE(card);
    const auto read = read_profile(*card);
    REQUIRE_FALSE(read);
    CHECK(read.error().code == (empty ? ErrorCode::kInvalidArgument : ErrorCode::kCorrupt));
  }
}
