#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <random>

#include "cachecard/digest.hpp"
#include "gguf_builder.hpp"
#include "llama_cpp/model_digest.hpp"
#include "llama_cpp/model_identity.hpp"

using namespace cachecard;
using namespace cachecard::llama_cpp;
using namespace cachecard::llama_cpp::test;
using Module = ModelFacts::Module;

namespace {

ModelFacts facts(const GgufBuilder& builder) {
  auto result = facts_of(builder);
  INFO((result ? "" : result.error().message()));
  REQUIRE(result);
  return *std::move(result);
}

std::vector<std::uint32_t> full_layers(const ModelFacts& model) {
  std::vector<std::uint32_t> layers;
  for (std::uint32_t i = 0; i < model.layer_count; ++i) {
    if (model.layer_is_sliding[i] == 0) layers.push_back(i);
  }
  return layers;
}

}  // namespace

TEST_CASE("geometry and RoPE come from the metadata", "[converters]") {
  const ModelFacts model = facts(GgufBuilder::model("llama", 3).f32("llama.rope.freq_base", 5000.0f));
  CHECK(model.module == Module::kPlain);
  CHECK(model.layer_count == 3);
  CHECK(model.kv_head_count == std::vector<std::uint32_t>{2, 2, 2});
  CHECK(model.key_head_dim[0] == 64);
  CHECK(model.rope_pairing == RopePairing::kInterleaved);
  CHECK(model.rope_dimension_count == 64);
  CHECK_FALSE(model.cell_ext);
  REQUIRE(model.rope_table);
  REQUIRE(model.rope_table->inverse_frequencies.size() == 32);
  CHECK(model.rope_table->inverse_frequencies[0] == 1.0);
  CHECK(model.rope_table->inverse_frequencies[16] == Approx(std::pow(5000.0, -0.5)));
  CHECK(model.identity.text(IdentityField::kRopeType) == "norm");
  CHECK(model.identity.f64(IdentityField::kRopeBase) == 5000.0);
  CHECK(model.identity.text(IdentityField::kRopeScaling) == "none");
  CHECK_FALSE(model.identity.digest(IdentityField::kWeightsDigest));
}

TEST_CASE("architectures decide pairing and memory", "[converters]") {
  CHECK(facts(GgufBuilder::model("qwen2", 2)).rope_pairing == RopePairing::kHalfSplit);
  CHECK(facts(GgufBuilder::model("gpt2", 2)).rope_dimension_count == 0);
  const ModelFacts vision = facts(GgufBuilder::model("qwen2vl", 2));
  CHECK(vision.cell_ext);
  CHECK(vision.rope_pairing == RopePairing::kNone);
  CHECK(vision.identity.text(IdentityField::kRopeType) == "mrope");
  CHECK(facts(GgufBuilder::model("glm4", 2)).rope_pairing == RopePairing::kInterleaved);
  CHECK(facts(GgufBuilder::model("glm4", 2).i32s("glm4.rope.dimension_sections", {8, 12, 12, 0})).cell_ext);
  for (const char* other : {"mamba", "lfm2", "qwen35", "deepseek32", "something-new"}) {
    INFO(other);
    CHECK(facts(GgufBuilder::model(other, 2)).module == Module::kOther);
  }
  GgufBuilder mla = GgufBuilder::model("deepseek2", 2);
  mla.u32("deepseek2.attention.key_length", 96).u32("deepseek2.attention.key_length_mla", 48);
  mla.u32("deepseek2.rope.dimension_count", 32);
  const ModelFacts latent = facts(mla);
  CHECK(latent.key_only);
  CHECK(latent.module == Module::kPlain);
  CHECK(latent.rotated_offset == 64);
}

TEST_CASE("window layers follow each architecture's rule", "[converters]") {
  const auto with_window = [](const std::string& name, std::uint32_t layers) {
    return GgufBuilder::model(name, layers).u32(name + ".attention.sliding_window", 16);
  };
  const ModelFacts gemma2 = facts(GgufBuilder::model("gemma2", 4));
  CHECK(gemma2.module == Module::kSlidingPair);
  CHECK(gemma2.sliding_window == 4096);
  CHECK(full_layers(gemma2) == std::vector<std::uint32_t>{1, 3});
  const ModelFacts gemma3 = facts(with_window("gemma3", 12).f32("gemma3.rope.freq_base", 1e6f));
  CHECK(full_layers(gemma3) == std::vector<std::uint32_t>{5, 11});
  CHECK_FALSE(gemma3.rope_table);  // window layers have another base
  CHECK(facts(GgufBuilder::model("gemma3", 6)).module == Module::kPlain);
  CHECK(facts(with_window("phi3", 4)).module == Module::kPlain);
  CHECK(facts(with_window("exaone4", 4)).module == Module::kPlain);
  const ModelFacts small_thinker = facts(with_window("smallthinker", 5));
  CHECK(full_layers(small_thinker) == std::vector<std::uint32_t>{0, 4});
  CHECK(small_thinker.sliding_window == 4096);
  GgufBuilder listed = with_window("gpt-oss", 3);
  listed.flags("gpt-oss.attention.sliding_window_pattern", {false, true, true});
  CHECK(full_layers(facts(listed)) == std::vector<std::uint32_t>{0});
  GgufBuilder counted = with_window("cohere2", 4);
  counted.u32("cohere2.attention.sliding_window_pattern", 2);
  const ModelFacts cohere = facts(counted);
  CHECK(full_layers(cohere) == std::vector<std::uint32_t>{1, 3});
  CHECK(cohere.layer_has_rope == std::vector<std::uint8_t>{1, 0, 1, 0});
}

TEST_CASE("layers without a cache of their own have none in the facts", "[converters]") {
  const ModelFacts draft = facts(GgufBuilder::model("glm4moe", 4).u32("glm4moe.nextn_predict_layers", 1));
  CHECK(draft.kv_head_count == std::vector<std::uint32_t>{2, 2, 2, 0});
  CHECK(draft.module == Module::kPlain);
  GgufBuilder gaps;
  gaps.text("general.architecture", "deci").u32("deci.block_count", 2).u32("deci.embedding_length", 256);
  gaps.i32s("deci.attention.head_count", {4, 0}).i32s("deci.attention.head_count_kv", {2, 0});
  CHECK(facts(gaps).module == Module::kOther);
}

TEST_CASE("scaled RoPE gives a table only where it is plain", "[converters]") {
  const auto scaled = [](const char* type) {
    return facts(GgufBuilder::model("llama", 1)
                     .text("llama.rope.scaling.type", type)
                     .f32("llama.rope.scaling.factor", 4.0f));
  };
  const ModelFacts linear = scaled("linear");
  REQUIRE(linear.rope_table);
  CHECK(linear.rope_table->inverse_frequencies[0] == 0.25);
  CHECK(linear.identity.f64(IdentityField::kRopeScaleFactor) == 4.0);
  CHECK_FALSE(scaled("yarn").rope_table);
  const ModelFacts divided =
      facts(GgufBuilder::model("llama", 1).tensor("rope_freqs.weight", std::vector<float>(32, 2.0f)));
  REQUIRE(divided.rope_table);
  CHECK(divided.rope_table->inverse_frequencies[0] == 0.5);
  CHECK(divided.identity.digest(IdentityField::kRopeFactorsDigest));
}

TEST_CASE("identity digests are over the documented bytes", "[converters]") {
  GgufBuilder builder = GgufBuilder::model("llama", 1);
  builder.texts("tokenizer.ggml.tokens", {"a", "bc"}).u32("tokenizer.ggml.bos_token_id", 1);
  builder.u32("tokenizer.ggml.padding_token_id", 0).text("tokenizer.chat_template", "{{x}}");
  builder.tensor("b", {1.0f, 2.0f}).tensor("a", {3.0f});
  const ModelFacts model = facts(builder);

  Bytes weights;  // converters/llama_cpp/IDENTITY.md, by hand
  for (const char* name : {"a", "b"}) {
    append(weights, std::uint32_t{1});
    append(weights, name, 1);
    append(weights, std::uint32_t{0});
    append(weights, std::uint32_t{1});
    const std::vector<float> values = name[0] == 'a' ? std::vector{3.0f} : std::vector{1.0f, 2.0f};
    append(weights, static_cast<std::uint64_t>(values.size()));
    append(weights, values.data(), values.size() * 4);
  }
  CHECK(model.identity.digest(IdentityField::kWeightsDigest) == digest128(weights));

  Bytes tokenizer;
  const std::string bos = "tokenizer.ggml.bos_token_id";
  append(tokenizer, static_cast<std::uint32_t>(bos.size()));
  append(tokenizer, bos.data(), bos.size());
  append(tokenizer, std::uint32_t{4});
  append(tokenizer, std::uint32_t{1});
  const std::string tokens = "tokenizer.ggml.tokens";
  append(tokenizer, static_cast<std::uint32_t>(tokens.size()));
  append(tokenizer, tokens.data(), tokens.size());
  append(tokenizer, std::uint32_t{9});
  append(tokenizer, std::uint32_t{8});
  append(tokenizer, std::uint64_t{2});
  for (const char* token : {"a", "bc"}) {
    const Bytes text = GgufBuilder::string(token);
    append(tokenizer, text.data(), text.size());
  }
  CHECK(model.identity.digest(IdentityField::kTokenizerDigest) == digest128(tokenizer));
  CHECK(model.identity.u64(IdentityField::kVocabSize) == 2);
  const std::string chat = "{{x}}";
  CHECK(model.identity.digest(IdentityField::kTemplateDigest) == digest128(std::as_bytes(std::span(chat))));
  CHECK(model.identity.text(IdentityField::kWeightsQuantization) == "F32");
}

TEST_CASE("the source is what the file declares of itself", "[converters]") {
  const auto source_of = [](const GgufBuilder& builder) {
    return facts(builder).identity.text(IdentityField::kSourceId);
  };
  GgufBuilder named = GgufBuilder::model("llama", 1);
  named.text("general.name", "Small").text("general.organization", "Org");
  CHECK(source_of(named) == "Org/Small");
  named.text("general.source.url", "https://huggingface.co/org/small/tree/v2");
  CHECK(source_of(named) == "org/small@v2");
  GgufBuilder based = GgufBuilder::model("llama", 1);
  based.text("general.base_model.0.name", "Parent").text("general.name", "Child");
  CHECK_FALSE(source_of(based));
  CHECK(normalize_source("https://huggingface.co/a/b/") == "a/b");
  CHECK(normalize_source("https://huggingface.co/a/b/tree/main") == "a/b");
  CHECK(normalize_source("https://example.org/a/b") == "https://example.org/a/b");
  CHECK(normalize_source("https://huggingface.co/a") == "https://huggingface.co/a");
}

TEST_CASE("weights digests are cached by what the file is", "[converters]") {
  GgufBuilder builder = GgufBuilder::model("llama", 1);
  builder.tensor("a", {3.0f});
  const ScratchFile file("weights.gguf", builder.bytes());
  const ScratchFile cache("model-digests.txt");
  const ModelOptions options{.weights_digest = true, .cache_folder = cache.folder()};
  const auto digest = [&] {
    const auto model = read_model(file.path(), options);
    REQUIRE(model);
    return model->identity.digest(IdentityField::kWeightsDigest).value();
  };
  const auto cache_text = [&] {
    const Bytes bytes = read_bytes(cache.path());
    return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  };
  const Digest128 first = digest();
  std::string text = cache_text();
  REQUIRE(text.find(to_hex(first)) != std::string::npos);
  // A line is believed: another digest there is the answer.
  const Digest128 other{1, 2, 3};
  text.replace(text.find(to_hex(first)), 32, to_hex(other));
  Bytes forged(text.size());
  std::memcpy(forged.data(), text.data(), text.size());
  cache.write(forged);
  CHECK(digest() == other);
  // Damage is ignored and written over.
  text.replace(text.size() - 20, 4, "zzzz");
  std::memcpy(forged.data(), text.data(), text.size());
  cache.write(forged);
  CHECK(digest() == first);
  CHECK(cache_text().find("zzzz") == std::string::npos);
  // Another file of that name has another key.
  builder.tensor("b", {4.0f});
  file.write(builder.bytes());
  CHECK(digest() != first);
}

TEST_CASE("every truncation of a GGUF file is refused", "[converters]") {
  GgufBuilder builder = GgufBuilder::model("llama", 2);
  builder.texts("tokenizer.ggml.tokens", {"a", "b"}).i32s("x.y", {1, 2, 3});
  builder.tensor("a", {1.0f, 2.0f}).tensor("b", {3.0f});
  const Bytes bytes = builder.bytes();
  REQUIRE(read_gguf(MemorySource(bytes)));
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    const auto file = read_gguf(MemorySource(std::span(bytes).first(size)));
    INFO(size);
    REQUIRE_FALSE(file);
  }
}

TEST_CASE("mutated GGUF files never break the reader", "[converters]") {
  constexpr std::uint32_t kSeed = 20261125;
  std::mt19937 random(kSeed);
  GgufBuilder builder = GgufBuilder::model("gemma3", 6);
  builder.u32("gemma3.attention.sliding_window", 8).texts("tokenizer.ggml.tokens", {"a", "b"});
  builder.flags("gemma3.attention.sliding_window_pattern", std::vector<bool>(6, true));
  builder.tensor("a", {1.0f, 2.0f}).tensor("rope_freqs.weight", std::vector<float>(32, 1.0f));
  const Bytes original = builder.bytes();
  const ScratchFile file("mutated.gguf");
  int taken = 0;
  for (int round = 0; round < 3000; ++round) {
    Bytes bytes = original;
    constexpr std::uint32_t kOdd[] = {0, 1, 9, 12, 0x7F, 0x80, 0xFF};
    for (int i = 0; i < 2; ++i) bytes[random() % bytes.size()] = static_cast<std::byte>(kOdd[random() % 7]);
    file.write(bytes);
    const auto model = read_model(file.path());
    INFO("round " << round << " seed " << kSeed);
    if (model) {
      ++taken;
    } else {
      REQUIRE(model.error().code != ErrorCode::kInternal);
    }
  }
  CHECK(taken > 100);
}

TEST_CASE("malformed GGUF files are refused by name", "[converters]") {
  const auto refusal = [](const Bytes& bytes) {
    const auto file = read_gguf(MemorySource(bytes));
    return file ? std::string() : file.error().message();
  };
  GgufBuilder twice;
  twice.u32("a.b", 1).u32("a.b", 2);
  CHECK(refusal(twice.bytes()).find("'a.b' occurs twice") != std::string::npos);
  Bytes old = GgufBuilder::model("llama", 1).bytes();
  old[4] = std::byte{1};
  CHECK(refusal(old).find("GGUF version 1") != std::string::npos);
  Bytes other = old;
  other[0] = std::byte{'X'};
  CHECK(refusal(other).find("not a GGUF file") != std::string::npos);
  GgufBuilder odd = GgufBuilder::model("llama", 1);
  odd.u32("general.alignment", 24).tensor("a", {1.0f});
  CHECK(refusal(odd.bytes()).find("general.alignment") != std::string::npos);
  CHECK_FALSE(facts_of(GgufBuilder::model("llama", 0)));
  CHECK_FALSE(facts_of(GgufBuilder::model("llama", 513)));
  GgufBuilder wrong;
  wrong.text("general.architecture", "llama").u32("llama.block_count", 3);
  wrong.i32s("llama.attention.head_count_kv", {1, 2});
  CHECK_FALSE(facts_of(wrong));
}
