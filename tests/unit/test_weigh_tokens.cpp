// From weights that were given to offsets by head; and which profile may speak for a cache.
#include <catch2/catch.hpp>
#include <limits>

#include "cachecard/allocate.hpp"
#include "plan_source.hpp"
#include "planes_cases.hpp"

namespace cachecard {
namespace {

using tests::FormulaSource;

constexpr std::uint64_t kTokens = 80;

TokenWeighing from(WeightSource source) {
  TokenWeighing weighing;
  weighing.source = source;
  return weighing;
}

FormulaSource source_of(std::uint32_t heads) {
  FormulaSource source("weigh", {.tokens = kTokens, .heads = heads, .head_dim = 8});
  source.fill([](auto t, auto h, auto c) { return static_cast<double>((t * 7 + h * 3 + c) % 11) - 5.0; });
  return source;
}

Identity identity(std::optional<unsigned char> weights, const char* source, const char* name, unsigned char tokenizer) {
  Identity made;
  if (weights) made.set_digest(IdentityField::kWeightsDigest, {*weights});
  if (source != nullptr) made.set_text(IdentityField::kSourceId, source);
  made.set_text(IdentityField::kModelName, name);
  made.set_digest(IdentityField::kTokenizerDigest, {tokenizer});
  return made;
}

}  // namespace

TEST_CASE("a layer's values take their keys' rows of weights", "[unit]") {
  const FormulaSource source = source_of(2);
  std::vector<float> weights(2 * kTokens, 1.0f);
  weights[kTokens + 5] = 50.0f;
  const auto offsets = given_offsets(source.header(), weights);
  REQUIRE(offsets);
  REQUIRE(offsets->size() == 4 * kTokens);
  for (const std::size_t use : {0u, 2u}) CHECK((*offsets)[use * kTokens + 5] == (*offsets)[use * kTokens + 6]);
  for (const std::size_t use : {1u, 3u}) CHECK((*offsets)[use * kTokens + 5] > (*offsets)[use * kTokens + 6]);
  const auto all = given_offsets(source.header(), std::span(weights).last(kTokens));
  REQUIRE(all);
  for (std::size_t use = 0; use < 4; ++use) CHECK((*all)[use * kTokens + 5] > (*all)[use * kTokens + 6]);
}

TEST_CASE("weights that are none are refused by row and token", "[unit]") {
  const FormulaSource source = source_of(3);
  for (const std::size_t count : {std::size_t{0}, std::size_t{kTokens - 1}, std::size_t{2 * kTokens}, std::size_t{4 * kTokens}}) {
    const auto found = given_offsets(source.header(), std::vector<float>(count, 1.0f));
    REQUIRE_FALSE(found);
    CHECK(found.error().code == ErrorCode::kInvalidArgument);
  }
  for (const float wrong : {-1.0f, std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    std::vector<float> weights(3 * kTokens, 1.0f);
    weights[2 * kTokens + 9] = wrong;
    const auto found = given_offsets(source.header(), weights);
    REQUIRE_FALSE(found);
    CHECK(found.error().detail.find("row 2, token 9") != std::string::npos);
  }
}

TEST_CASE("weights that hardly differ leave all steps alike, newest tokens aside", "[unit]") {
  const FormulaSource source = source_of(1);
  EntropyOptions entropy;
  auto weights = weigh_tokens(source, from(WeightSource::kNone), entropy);
  REQUIRE(weights);
  CHECK_FALSE(weights->used);
  CHECK(entropy.token_offsets.empty());
  const std::vector<float> flat(kTokens, 2.0f);
  TokenWeighing given;
  given.given = flat;
  given.newest_tokens = 3;
  weights = weigh_tokens(source, given, entropy);
  REQUIRE(weights);
  CHECK_FALSE(weights->used);
  REQUIRE(entropy.token_offsets.size() == 2 * kTokens);
  CHECK((entropy.token_offsets[kTokens - 4] == 0 && entropy.token_offsets[kTokens - 3] == 2));
  CHECK(weigh_tokens(source, from(WeightSource::kBest), entropy).value().source == WeightSource::kRecency);
  for (const WeightSource wanted : {WeightSource::kNewest, WeightSource::kCentroids, WeightSource::kBoth}) {
    CHECK(weigh_tokens(source, from(wanted), entropy).error().code == ErrorCode::kInvalidArgument);
  }
}

TEST_CASE("a profile speaks for the same weights, the same source, or the same name and tokenizer", "[unit]") {
  ModelProfile profile;
  profile.header.identity = identity(1, "org/a", "a", 7);
  CHECK(check_profile(profile, identity(1, "org/b", "b", 8)));
  CHECK(check_profile(profile, identity(2, "org/a", "b", 8)));
  CHECK(check_profile(profile, identity({}, nullptr, "a", 7)));
  CHECK_FALSE(check_profile(profile, identity(2, "org/b", "a", 7)));
  CHECK_FALSE(check_profile(profile, identity({}, nullptr, "a", 8)));
  CHECK(check_profile(profile, identity({}, nullptr, "b", 7)).error().code == ErrorCode::kModelMismatch);
}

}  // namespace cachecard
