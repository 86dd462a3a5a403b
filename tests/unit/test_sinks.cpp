// Tokens that attention falls back on, and steps that are finer than lanes reach.
#include <catch2/catch.hpp>

#include "cachecard/allocate.hpp"
#include "planes_cases.hpp"

namespace cachecard {
namespace {

using tests::FormulaSource;

constexpr std::uint64_t kTokens = 400;

/// Every head's values have a norm of about 8; those of some tokens and heads are times factor.
FormulaSource source_of(std::initializer_list<std::uint64_t> outliers, std::uint32_t heads_of_24, double factor) {
  FormulaSource source("sinks", {.tokens = kTokens, .heads = 24, .head_dim = 8});
  const std::vector<std::uint64_t> tokens(outliers);
  source.fill([=](auto t, auto h, auto c) {
    const bool outlier = std::find(tokens.begin(), tokens.end(), t) != tokens.end() && h < heads_of_24;
    return (3.0 + static_cast<double>((t * 7 + h * 5 + c * 3) % 5) / 10.0) * (outlier ? factor : 1.0);
  });
  return source;
}

std::vector<std::uint64_t> sinks_of(const CacheSource& source) { return find_sinks(source).value(); }

using Tokens = std::vector<std::uint64_t>;

}  // namespace

TEST_CASE("tokens whose values are outliers in one head of twelve are sinks", "[unit]") {
  CHECK(sinks_of(source_of({}, 24, 1.0)).empty());
  CHECK(sinks_of(source_of({0, 123, 399}, 2, 10.0)) == Tokens{0, 123, 399});
  CHECK(sinks_of(source_of({7}, 24, 0.1)) == Tokens{7});
  CHECK(sinks_of(source_of({7}, 1, 10.0)).empty());   // one head of 24 is its own affair
  CHECK(sinks_of(source_of({7}, 24, 2.0)).empty());   // within three times the median
  CHECK(sinks_of(source_of({1, 2, 3, 4, 5, 6, 7}, 24, 10.0)).empty());  // one in 57 are too many: so the model is
  CHECK(sinks_of(source_of({1, 2, 3, 4, 5, 6}, 24, 10.0)).size() == 6);
}

TEST_CASE("sinks get three bits more in planes, as far as layers have them", "[unit]") {
  const FormulaSource source = source_of({}, 24, 1.0);
  for (const auto& [bits, wider] : {std::pair<std::uint8_t, int>{4, 14}, {6, 16}, {8, 16}}) {
    CardOptions options;
    options.planes.emplace();
    options.planes->key_bits = options.planes->value_bits = bits;
    options.planes->sinks = {100};
    MemorySink sink;
    REQUIRE(write_card(source, sink, options));
    const MemorySource bytes(sink.bytes());
    const auto map = CardReader::open(bytes).value().map(0).value();
    const auto row = map.row(map.row_of[0]);
    CHECK(map.base[0] + row[99] == 2 * bits);
    CHECK(map.base[0] + row[100] == wider);
  }
}

TEST_CASE("first tokens are exact where that pays, else at 8 bits", "[unit]") {
  const auto exact = [](std::uint64_t tokens, double bits) {
    EntropyOptions entropy;
    choose_sinks(tokens, bits, entropy);
    CHECK(entropy.exact_tokens + entropy.fine_tokens == 4);
    return entropy.exact_tokens == 4;
  };
  CHECK(exact(1300, 1.5));
  CHECK_FALSE(exact(1300, 1.15));
  CHECK(exact(4000, 1.0));
  CHECK_FALSE(exact(300, 3.0));
}

/// Where one channel of each head is far larger than the others, its lane cannot have the head's step.
TEST_CASE("steps become as fine as the budget asks, beyond what lanes reach", "[unit]") {
  FormulaSource source("shift", {.tokens = 600, .heads = 2, .head_dim = 64});
  fixtures::Random random("shift");
  source.fill([&](auto, auto, auto c) {
    double sum = -3.0;
    for (int i = 0; i < 6; ++i) sum += static_cast<double>(random.below(1000)) / 1000.0;
    return sum * (c % 8 == 0 ? 40.0 : 1.0);
  });
  std::vector<double> errors;
  for (const double bits : {4.0, 5.0, 6.0, 7.0, 8.0}) {
    CardOptions options;
    options.entropy.emplace().bits = bits;
    MemorySink sink;
    auto written = write_card(source, sink, options);
    REQUIRE(written);
    CHECK(8.0 * static_cast<double>(written->file_size) / static_cast<double>(written->summary.value_count) > 0.97 * bits);
    const MemorySource bytes(sink.bytes());
    auto reader = CardReader::open(bytes);
    REQUIRE(reader);
    const std::size_t size = 600 * 2 * 64 * sizeof(float);
    std::vector<std::byte> before(size), after(size), scratch(reader->scratch_bytes(1));
    REQUIRE(source.read_rows(1, 0, 600, before));
    REQUIRE(reader->read_rows(1, 0, 600, after, scratch));
    double error = 0.0;
    for (std::size_t i = 0; i < size; i += sizeof(float)) {
      float a = 0.0f, b = 0.0f;
      std::memcpy(&a, before.data() + i, sizeof a);
      std::memcpy(&b, after.data() + i, sizeof b);
      error += (double{a} - double{b}) * (double{a} - double{b});
    }
    errors.push_back(error);
  }
  // A bit more is a quarter of the squared error; lanes at their finest would stay where they are.
  for (std::size_t i = 1; i < errors.size(); ++i) CHECK(errors[i] < 0.4 * errors[i - 1]);
}

}  // namespace cachecard
