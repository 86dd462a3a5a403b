// libtorch's tensors and CacheCard's own .pt code, held to each other.

#include <ATen/ATen.h>
#include <torch/csrc/jit/serialization/pickle.h>

#include <catch2/catch.hpp>
#include <cstring>

#include "cachecard/writer.hpp"
#include "torch/pt_source.hpp"
#include "torch/pt_writer.hpp"
#include "torch/torch_cache.hpp"
#include "torch/torch_module.hpp"

using namespace cachecard;
using namespace cachecard::pytorch;
using Catch::Contains;

namespace {

using Bytes = std::vector<std::byte>;
constexpr unsigned kSeed = 20261124;

at::Tensor noise(at::IntArrayRef sizes, at::ScalarType type) { return at::randn(sizes).to(type); }

CacheFacts rope() {
  CacheFacts facts;
  facts.rope_state = RopeState::kPostRope;
  facts.rope_pairing = RopePairing::kHalfSplit;
  return facts;
}

Bytes card_of(const CacheSource& source) {
  MemorySink sink;
  CardOptions options;
  options.chunk_tokens = 4;
  REQUIRE(write_card(source, sink, options));
  return sink.bytes();
}

Bytes card_of(const std::vector<LayerTensors>& layers, CacheFacts facts = rope()) {
  auto source = tensor_source(layers, std::move(facts));
  REQUIRE(source);
  return card_of(**source);
}

/// A card in memory, open.
struct OpenCard {
  explicit OpenCard(Bytes card_bytes)
      : bytes(std::move(card_bytes)), source(bytes), reader(CardReader::open(source)) {
    REQUIRE(reader);
  }
  Bytes bytes;
  MemorySource source;
  Result<CardReader> reader;
};

bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  if (a.sizes() != b.sizes() || a.scalar_type() != b.scalar_type()) return false;
  const at::Tensor left = a.contiguous();
  const at::Tensor right = b.contiguous();
  return std::memcmp(left.data_ptr(), right.data_ptr(), left.nbytes()) == 0;
}

void check_same(const std::vector<LayerTensors>& a, const std::vector<LayerTensors>& b) {
  REQUIRE(a.size() == b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    INFO("layer " << i);
    CHECK(same_bits(a[i].key, b[i].key));
    CHECK(same_bits(a[i].value, b[i].value));
    CHECK(a[i].first_token.value_or(0) == b[i].first_token.value_or(0));
    CHECK(a[i].window == b[i].window);
  }
}

/// Two full layers of different widths and heads, one that holds the last 5 of 10 tokens.
std::vector<LayerTensors> layers_of(at::ScalarType type) {
  at::manual_seed(kSeed);
  std::vector<LayerTensors> layers{
      {noise({1, 2, 10, 16}, type), noise({1, 2, 10, 16}, type), std::nullopt, 0},
      {noise({1, 3, 10, 8}, type), noise({1, 3, 10, 12}, type), std::nullopt, 0},
      {noise({1, 1, 5, 16}, type), noise({1, 1, 5, 4}, type), 5, 6}};
  return layers;
}

std::string says(std::vector<LayerTensors> layers, CacheFacts facts = rope()) {
  auto source = tensor_source(std::move(layers), std::move(facts));
  REQUIRE_FALSE(source);
  return source.error().message();
}

}  // namespace

TEST_CASE("tensors to card to tensors keeps every bit", "[converters]") {
  for (const at::ScalarType type : {at::kFloat, at::kHalf, at::kBFloat16}) {
    INFO(c10::toString(type) << ", seed " << kSeed);
    const auto layers = layers_of(type);
    const OpenCard card(card_of(layers));
    CHECK(card.reader->header().restorable_from == 10);
    auto back = read_tensors(*card.reader);
    REQUIRE(back);
    check_same(layers, *back);
  }
}

TEST_CASE("NaN payloads and signed zeros survive", "[converters]") {
  at::Tensor key = at::zeros({1, 1, 2, 4}, at::kHalf);
  const std::uint16_t bits[] = {0x7e01, 0xfe55, 0x8000, 0x7c00, 0xfc00, 0x0001, 0x83ff, 0x7dff};
  std::memcpy(key.data_ptr(), bits, sizeof(bits));
  const std::vector<LayerTensors> layers{{key, key.clone(), std::nullopt, 0}};
  const OpenCard card(card_of(layers));
  auto back = read_tensors(*card.reader);
  REQUIRE(back);
  check_same(layers, *back);
}

TEST_CASE("strided tensors give and take what contiguous ones do", "[converters]") {
  const auto layers = layers_of(at::kHalf);
  const Bytes expected = card_of(layers);
  const auto with = [&](auto&& change) {
    std::vector<LayerTensors> changed = layers;
    for (LayerTensors& layer : changed) {
      layer.key = change(layer.key);
      layer.value = change(layer.value);
    }
    return changed;
  };
  const auto token_major = [](const at::Tensor& t) { return t.transpose(1, 2).contiguous().transpose(1, 2); };
  const auto channel_major = [](const at::Tensor& t) {
    return t.transpose(2, 3).contiguous().transpose(2, 3);
  };
  const auto gaps = [](const at::Tensor& t) {
    at::Tensor wide = at::full({2, t.size(1) + 1, t.size(2) + 3, t.size(3) * 2}, 7, t.options());
    at::Tensor view =
        wide.narrow(0, 1, 1).narrow(1, 1, t.size(1)).narrow(2, 2, t.size(2)).slice(3, 0, c10::nullopt, 2);
    view.copy_(t);
    return view;
  };
  const OpenCard card(expected);
  for (const auto& changed : {with(token_major), with(channel_major), with(gaps)}) {
    CHECK_FALSE(changed[1].key.is_contiguous());
    CHECK((card_of(changed) == expected));
    for (const LayerTensors& layer : changed) layer.key.zero_(), layer.value.zero_();
    REQUIRE(read_into(*card.reader, changed));
    check_same(layers, changed);
  }
}

TEST_CASE("tensors around the target's view are left alone", "[converters]") {
  const auto layers = layers_of(at::kFloat);
  const OpenCard card(card_of(layers));
  at::Tensor all = at::full({1, 2, 14, 16}, 3.0);
  std::vector<LayerTensors> targets = layers_of(at::kFloat);
  targets[0].key = all.narrow(2, 2, 10);
  REQUIRE(read_into(*card.reader, targets));
  CHECK(same_bits(targets[0].key, layers[0].key));
  CHECK(all.narrow(2, 0, 2).eq(3.0).all().item<bool>());
  CHECK(all.narrow(2, 12, 2).eq(3.0).all().item<bool>());
}

TEST_CASE("a target takes another float type and a prefix", "[converters]") {
  std::vector<LayerTensors> layers = layers_of(at::kFloat);
  layers.pop_back();
  const OpenCard card(card_of(layers));
  TensorOptions options;
  options.dtype = at::kHalf;
  options.token_count = 7;
  auto back = read_tensors(*card.reader, options);
  REQUIRE(back);
  CHECK(same_bits((*back)[0].key, layers[0].key.narrow(2, 0, 7).to(at::kHalf)));
  options.token_count = 11;
  CHECK(read_tensors(*card.reader, options).error().code == ErrorCode::kInvalidArgument);
}

TEST_CASE("a prefix that a window layer cannot go on from is refused", "[converters]") {
  const OpenCard card(card_of(layers_of(at::kHalf)));
  TensorOptions options;
  options.token_count = 9;
  CHECK(read_tensors(*card.reader, options).error().code == ErrorCode::kNotRestorable);
}

TEST_CASE("tensors that are no cache are refused: what, where, found, allowed", "[converters]") {
  const at::Tensor good = at::zeros({1, 2, 4, 8});
  CHECK_THAT(says({}), Contains("found 0 layers"));
  CHECK_THAT(says({{at::Tensor(), good, std::nullopt, 0}}), Contains("layer 0 key: found no tensor"));
  CHECK_THAT(says({{good, at::zeros({2, 4, 8}), std::nullopt, 0}}),
             Contains("layer 0 value: found sizes [2, 4, 8], allowed [1, heads"));
  CHECK_THAT(says({{at::zeros({3, 2, 4, 8}), good, std::nullopt, 0}}),
             Contains("found a batch of 3, allowed 1"));
  CHECK_THAT(says({{good.to(at::kDouble), good, std::nullopt, 0}}),
             Contains("found Double, allowed Float, Half and BFloat16"));
  CHECK_THAT(says({{good.to_sparse(), good, std::nullopt, 0}}), Contains("a sparse or quantised tensor"));
  CHECK_THAT(says({{at::quantize_per_tensor(good, 0.1, 0, at::kQInt8), good, std::nullopt, 0}}),
             Contains("a sparse or quantised tensor"));
  CHECK_THAT(says({{at::zeros({1, 2, 0, 8}), at::zeros({1, 2, 0, 8}), std::nullopt, 0}}),
             Contains("an empty tensor"));
  CHECK_THAT(says({{good, at::zeros({1, 2, 5, 8}), std::nullopt, 0}}),
             Contains("keys are [1, 2, 4, 8], values [1, 2, 5, 8]"));
  CHECK_THAT(says({{good, good, std::nullopt, 0},
                   {at::zeros({1, 2, 3, 8}), at::zeros({1, 2, 3, 8}), std::nullopt, 0}}),
             Contains("layer 1: holds 3 tokens, the cache has 4"));
}

TEST_CASE("targets that do not fit are refused before anything is written", "[converters]") {
  const auto layers = layers_of(at::kHalf);
  const OpenCard card(card_of(layers));
  const auto refused = [&](std::vector<LayerTensors> targets) {
    const Status s = read_into(*card.reader, targets);
    REQUIRE_FALSE(s);
    CHECK(s.error().code == ErrorCode::kGeometryMismatch);
    CHECK(targets[0].key.eq(0).all().item<bool>());
    return s.error().message();
  };
  const auto zeros = [&] {
    auto targets = layers_of(at::kHalf);
    for (LayerTensors& layer : targets) layer.key.zero_(), layer.value.zero_();
    return targets;
  };
  auto targets = zeros();
  targets.pop_back();
  CHECK_THAT(refused(targets), Contains("found tensors of 2 layers, the card has 3"));
  targets = zeros();
  targets[2].value = at::zeros({1, 1, 6, 4}, at::kHalf);
  CHECK_THAT(refused(targets),
             Contains("layer 2 value: found sizes [1, 1, 6, 4], the card needs [1, 1, 5, 4]"));
  targets = zeros();
  targets[1].key = targets[1].key.to(at::kInt);
  CHECK_THAT(refused(targets), Contains("layer 1 key: found Int"));
}

TEST_CASE("torch's own exceptions become errors", "[converters]") {
  const OpenCard card(card_of(layers_of(at::kHalf)));
  TensorOptions options;
  options.device = at::Device(at::kCUDA, 7);
  auto back = read_tensors(*card.reader, options);
  REQUIRE_FALSE(back);
  CHECK(back.error().code == ErrorCode::kIo);
  CHECK(back.error().message().find('\n') == std::string::npos);
}

TEST_CASE("what libtorch pickles, CacheCard reads", "[converters]") {
  std::vector<LayerTensors> layers = layers_of(at::kBFloat16);
  layers.pop_back();
  layers[1].key = layers[1].key.transpose(1, 2).contiguous().transpose(1, 2);
  std::vector<c10::IValue> pairs;
  for (const LayerTensors& layer : layers)
    pairs.push_back(c10::ivalue::Tuple::create({layer.key, layer.value}));
  const std::vector<char> bytes = torch::jit::pickle_save(c10::ivalue::Tuple::create(std::move(pairs)));
  const MemorySource source(std::as_bytes(std::span(bytes)));
  auto cache = read_pt_cache(source);
  REQUIRE(cache);
  auto values = pt_source(source, *cache, rope());
  REQUIRE(values);
  CHECK((card_of(**values) == card_of(layers)));
  auto with_torch = read_with_torch(source, *cache, rope());
  REQUIRE(with_torch);
  CHECK((card_of(**with_torch) == card_of(layers)));
}

TEST_CASE("what CacheCard writes, libtorch unpickles", "[converters]") {
  CacheFacts facts = rope();
  for (std::int32_t i = 0; i < 10; ++i) facts.token_ids.push_back(100 + i);
  const auto layers = layers_of(at::kHalf);
  const OpenCard card(card_of(layers, facts));
  MemorySink sink;
  REQUIRE(write_pt(*card.reader, sink));
  const auto* begin = reinterpret_cast<const char*>(sink.bytes().data());
  const c10::IValue root = torch::jit::pickle_load({begin, begin + sink.bytes().size()});
  const auto dict = root.toGenericDict();
  CHECK(dict.size() == 8);
  for (std::size_t i = 0; i < layers.size(); ++i) {
    CHECK(same_bits(dict.at("key_cache").toListRef()[i].toTensor(), layers[i].key));
    CHECK(same_bits(dict.at("value_cache").toListRef()[i].toTensor(), layers[i].value));
  }
  CHECK(dict.at("token_ids").toTensor().equal(at::arange(100, 110, at::kLong)));
  CHECK(dict.at("positions").toTensor().equal(at::arange(0, 10, at::kLong)));
  CHECK(dict.at("first_token").toListRef()[2].toInt() == 5);
  CHECK(dict.at("rope_pairing").toStringRef() == "half_split");
}

TEST_CASE("the .pt that libtorch writes makes the same card again", "[converters]") {
  CacheFacts facts = rope();
  for (std::int32_t i = 0; i < 10; ++i) facts.token_ids.push_back(100 + i);
  const Bytes bytes = card_of(layers_of(at::kHalf), facts);
  const OpenCard card(bytes);
  for (auto* write : {&write_pt, &write_with_torch}) {
    MemorySink sink;
    REQUIRE(write(*card.reader, sink, PtWriteOptions{}));
    const MemorySource source(sink.bytes());
    auto cache = read_pt_cache(source);
    REQUIRE(cache);
    auto values = pt_source(source, *cache, rope());
    REQUIRE(values);
    CHECK((card_of(**values) == bytes));
  }
}
