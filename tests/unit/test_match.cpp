#include <algorithm>
#include <catch2/catch.hpp>

#include "cachecard/match.hpp"

using namespace cachecard;
using F = IdentityField;

namespace {

Digest128 digest(std::uint8_t first) {
  Digest128 value{};
  value[0] = first;
  return value;
}

/// Everything that must match, known on both sides.
Identity full() {
  Identity identity;
  identity.set_text(F::kArchitecture, "llama");
  identity.set_digest(F::kWeightsDigest, digest(1));
  identity.set_text(F::kSourceId, "org/model");
  identity.set_text(F::kWeightsQuantization, "q4_1");
  identity.set_text(F::kWeightsContainer, "gguf");
  identity.set_text(F::kAdapters, "");
  identity.set_digest(F::kTokenizerDigest, digest(2));
  identity.set_u64(F::kVocabSize, 49152);
  identity.set_text(F::kRopeType, "norm");
  identity.set_f64(F::kRopeBase, 1e5);
  identity.set_u64(F::kRopeDimensionCount, 64);
  identity.set_text(F::kRopeScaling, "none");
  return identity;
}

struct Outcome {
  ErrorCode code;
  std::string field;
};

Outcome judge(const Identity& card, const Identity& target, std::vector<std::string> allow = {}) {
  const auto report = match_identity(card, target, allow);
  REQUIRE(report);
  REQUIRE(report->accepted == (report->error.field.empty()));
  return {report->accepted ? ErrorCode::kOk : report->error.code, report->error.field};
}

template <class Change>
Identity changed(Change&& change) {
  Identity identity = full();
  change(identity);
  return identity;
}

}  // namespace

TEST_CASE("equal identities match, field by field", "[unit]") {
  const auto report = match_identity(full(), full(), {});
  REQUIRE(report);
  CHECK(report->accepted);
  for (const FieldVerdict& verdict : report->fields) {
    INFO(verdict.field);
    CHECK(verdict.verdict <= Verdict::kCompatible);
    CHECK_FALSE(verdict.overridden);
  }
}

TEST_CASE("a difference in what must match is model_mismatch, and nothing allows it", "[unit]") {
  struct Case {
    F field;
    Identity target;
  };
  std::vector<Case> cases;
  for (const F field : {F::kArchitecture, F::kAdapters, F::kRopeType, F::kRopeScaling}) {
    cases.push_back({field, changed([&](Identity& i) { i.set_text(field, "other"); })});
  }
  cases.push_back(
      {F::kTokenizerDigest, changed([](Identity& i) { i.set_digest(F::kTokenizerDigest, digest(9)); })});
  cases.push_back({F::kVocabSize, changed([](Identity& i) { i.set_u64(F::kVocabSize, 1); })});
  cases.push_back({F::kRopeBase, changed([](Identity& i) { i.set_f64(F::kRopeBase, 1e4); })});
  cases.push_back(
      {F::kRopeDimensionCount, changed([](Identity& i) { i.set_u64(F::kRopeDimensionCount, 32); })});
  std::vector<std::string> everything;
  for (const OverrideInfo& info : overrides()) everything.emplace_back(info.name);
  for (const Case& c : cases) {
    const std::string name(identity_field_info(static_cast<std::uint16_t>(c.field))->name);
    INFO(name);
    for (const auto& allow : {std::vector<std::string>{}, everything}) {
      const Outcome outcome = judge(full(), c.target, allow);
      CHECK(outcome.code == ErrorCode::kModelMismatch);
      CHECK(outcome.field == "identity." + name);
    }
  }
}

TEST_CASE("unknown is never a match, until its own override is named", "[unit]") {
  const std::vector<std::pair<F, std::string>> cases{{F::kWeightsDigest, "weights-unknown"},
                                                     {F::kAdapters, "adapters-unknown"},
                                                     {F::kTokenizerDigest, "tokenizer-unknown"},
                                                     {F::kRopeType, "rope-unknown"},
                                                     {F::kRopeBase, "rope-unknown"}};
  for (const auto& [field, name] : cases) {
    const F removed = field;
    const Identity less = changed([&](Identity& i) { i.remove(removed); });
    INFO(name);
    CHECK(judge(full(), less).code == ErrorCode::kIdentityUnknown);
    CHECK(judge(less, full()).code == ErrorCode::kIdentityUnknown);
    CHECK(judge(full(), less, {name}).code == ErrorCode::kOk);
    CHECK(judge(less, full(), {name}).code == ErrorCode::kOk);
  }
  const Identity no_architecture = changed([](Identity& i) { i.remove(F::kArchitecture); });
  CHECK(judge(full(), no_architecture, {"weights-unknown", "rope-unknown"}).code ==
        ErrorCode::kIdentityUnknown);
  CHECK(judge({}, {}).code == ErrorCode::kIdentityUnknown);
}

TEST_CASE("other weights of one source are compatible with loss, by their own override", "[unit]") {
  const Identity quantized = changed([](Identity& i) {
    i.set_digest(F::kWeightsDigest, digest(7));
    i.set_text(F::kWeightsQuantization, "q8_0");
  });
  CHECK(judge(full(), quantized).code == ErrorCode::kModelMismatch);
  CHECK(judge(full(), quantized, {"weights-quantization"}).code == ErrorCode::kOk);
  CHECK(judge(full(), quantized, {"weights-container"}).code == ErrorCode::kModelMismatch);
  const Identity container = changed([](Identity& i) {
    i.set_digest(F::kWeightsDigest, digest(7));
    i.set_text(F::kWeightsContainer, "safetensors");
  });
  CHECK(judge(full(), container, {"weights-container"}).code == ErrorCode::kOk);
  CHECK(judge(full(), container, {"weights-quantization"}).code == ErrorCode::kModelMismatch);
  const Identity other_source = changed([](Identity& i) {
    i.set_digest(F::kWeightsDigest, digest(7));
    i.set_text(F::kSourceId, "org/another");
  });
  CHECK(judge(full(), other_source, {"weights-quantization", "weights-container"}).code ==
        ErrorCode::kModelMismatch);
}

TEST_CASE("unknown weights are let through only where the source is the same", "[unit]") {
  const Identity unknown = changed([](Identity& i) { i.remove(F::kWeightsDigest); });
  CHECK(judge(full(), unknown, {"weights-unknown"}).code == ErrorCode::kOk);
  const Identity nothing = changed([](Identity& i) {
    i.remove(F::kWeightsDigest);
    i.remove(F::kSourceId);
  });
  CHECK(judge(full(), nothing, {"weights-unknown"}).code == ErrorCode::kIdentityUnknown);
}

TEST_CASE("other templates, names and producers are no reason to refuse", "[unit]") {
  const Identity other = changed([](Identity& i) {
    i.set_digest(F::kTemplateDigest, digest(5));
    i.set_text(F::kModelName, "another name");
    i.set_text(F::kProducer, "another program");
  });
  CHECK(judge(full(), other).code == ErrorCode::kOk);
  CHECK(judge(other, full()).code == ErrorCode::kOk);
}

TEST_CASE("an override is named as used, and a name that is none is refused", "[unit]") {
  const Identity less = changed([](Identity& i) { i.remove(F::kAdapters); });
  const auto report = match_identity(full(), less, {"adapters-unknown"});
  REQUIRE(report);
  const auto used = std::count_if(report->fields.begin(), report->fields.end(),
                                  [](const FieldVerdict& v) { return v.overridden; });
  CHECK(used == 1);
  CHECK(match_identity(full(), full(), {"force"}).error().code == ErrorCode::kInvalidArgument);
}
