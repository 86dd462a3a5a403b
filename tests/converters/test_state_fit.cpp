#include <catch2/catch.hpp>

#include "cachecard/edit.hpp"
#include "state_fixture.hpp"

using namespace cachecard;
using namespace cachecard::llama_cpp;
using namespace cachecard::llama_cpp::test;

namespace {

StateTemplate small_template() {
  StateTemplate target;
  StateTemplate::Cache cache;
  cache.key_types = {DType::kF16};
  cache.value_types = {DType::kF16};
  cache.key_row_bytes = {256};
  cache.value_row_bytes = {256};
  target.caches = {cache};
  return target;
}

}  // namespace

TEST_CASE("every misfit is refused in one clear line", "[converters]") {
  const auto made = make_card(HandState().bytes(), small_model());
  REQUIRE(made);
  const CardReader& card = ***made;
  REQUIRE(refusal(card, small_template()).empty());
  const auto with = [&](auto change) {
    StateTemplate target = small_template();
    change(target);
    return refusal(card, target);
  };
  CHECK(with([](StateTemplate& t) {
          t.caches[0].key_types.push_back(DType::kF16);
        }).find("the card has 1 K and 1 V layers, the target's cache 2 and 1") != std::string::npos);
  CHECK(with([](StateTemplate& t) {
          set_type(t.caches[0], DType::kQ8_0, 256);
        }).find("take 136 bytes as q8_0, the target's rows 256") != std::string::npos);
  CHECK(with([](StateTemplate& t) {
          set_type(t.caches[0], DType::kQ8_0, 136);
          t.caches[0].n_rot_k = 128;
        }).find("the target rotates groups of 128 channels, heads have 64") != std::string::npos);
  CHECK(with([](StateTemplate& t) {
          t.caches[0].key_row_bytes = {384};
        }).find("the card's 2 heads of 64 take 256 bytes as f16, the target's rows 384") !=
        std::string::npos);
  CHECK(with([](StateTemplate& t) {
          t.caches[0].n_rot_k = 64;
        }).find("the target's is said to be rotated, which only block types are") != std::string::npos);
  CHECK(with([](StateTemplate& t) { t.caches.push_back(t.caches[0]); }).find("sliding-window") !=
        std::string::npos);
  CHECK(with([](StateTemplate& t) { t.caches.clear(); }).find("state of another kind") != std::string::npos);
  CHECK(with([](StateTemplate& t) { t.architecture = "qwen2"; }).find("model_mismatch") != std::string::npos);
  CHECK(with([](StateTemplate& t) {
          t.caches[0].n_stream = 2;
          t.stream_index = 2;
        }).find("stream 2 of 2") != std::string::npos);
  CHECK(refusal(card, small_template(), 4).find("the card has 3") != std::string::npos);
}

TEST_CASE("a 10/3 card fits an 11/4 server of the same rotation", "[converters]") {
  const auto rotated = fixture_card("llama_q8_0.seq");
  CHECK(refusal(**rotated, template_of_fixture("server_llama_q8_0.slot")).empty());
}

TEST_CASE("cards that no runtime may continue are refused", "[converters]") {
  const auto code = [](const HandState& state) {
    const auto card = make_card(state.bytes(), small_model());
    REQUIRE(card);
    MemorySink sink;
    const auto report = write_state(***card, small_template(), sink);
    return report ? ErrorCode::kOk : report.error().code;
  };
  CHECK(code({}) == ErrorCode::kOk);
  HandState hole;
  hole.positions = {0, 1, 5};
  CHECK(code(hole) == ErrorCode::kPartialCard);
  HandState fewer;
  fewer.words = {7};
  CHECK(code(fewer) == ErrorCode::kTokensUnknown);
  HandState repeated;
  repeated.positions = {0, 0, 1};
  CHECK(code(repeated) == ErrorCode::kPartialCard);
  const auto image = fixture_card("qwen2vl_f16_image.seq");
  CHECK(refusal(**image, template_of_fixture("qwen2vl_f16.seq")).find("image") != std::string::npos);
  const auto opaque = fixture_card("mamba.seq");
  CHECK(refusal(**opaque, template_of_fixture("mamba.seq"), 3).find("only be restored whole") !=
        std::string::npos);
  CHECK_FALSE(refusal(**opaque, template_of_fixture("server_mamba_state.slot")).empty());
}

TEST_CASE("trimmed cards are refused or written as what they are", "[converters]") {
  const auto card = fixture_card("server_llama_f16.slot");
  const StateTemplate target = template_of_fixture("server_llama_f16.slot");
  const auto trimmed_code = [&](const TrimOptions& options) {
    MemorySink sink;
    REQUIRE(trim(**card, sink, options));
    const MemorySource source(sink.bytes());
    const auto reader = CardReader::open(source);
    REQUIRE(reader);
    MemorySink out;
    const auto report = write_state(*reader, target, out);
    return report ? ErrorCode::kOk : report.error().code;
  };
  TrimOptions front;
  front.first_token = 3;
  CHECK(trimmed_code(front) == ErrorCode::kPartialCard);
  TrimOptions layers;
  layers.end_layer = 1;
  CHECK(trimmed_code(layers) == ErrorCode::kPartialCard);
  TrimOptions back;
  back.end_token = 9;
  CHECK(trimmed_code(back) == ErrorCode::kOk);
}

TEST_CASE("an empty or unsaid state gives no template", "[converters]") {
  const FixtureFacts facts = fixture("server_llama_empty.slot");
  const ModelFacts model = fixture_model(facts);
  const Bytes bytes = fixture_bytes(facts);
  auto parsed = parse_state(MemorySource(bytes), &model);
  REQUIRE(parsed);
  CHECK_FALSE(template_of(*parsed));
  const FixtureFacts quantised = fixture("llama_q8_0.seq");
  const Bytes blocks = fixture_bytes(quantised);
  auto unsaid = parse_state(MemorySource(blocks), &model);
  REQUIRE(unsaid);
  CHECK_FALSE(template_of(*unsaid));
}
