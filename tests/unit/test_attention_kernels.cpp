#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <vector>

#include "fixture_values.hpp"
#include "kernel/attention.hpp"

/// Every set of attention loops against the scalar one, bit by bit, and that one against the definition in f64.
namespace cachecard::kernel {
namespace {

using fixtures::Random;

struct Case {
  std::size_t dim = 0;
  std::size_t tokens = 0;
  std::vector<float> keys;
  std::vector<float> queries;
  std::vector<std::uint32_t> visible;
  std::vector<float> shares;

  KeyBlocks blocks() const { return {keys.data(), dim, tokens}; }
  float key(std::size_t token, std::size_t c) const {
    return keys[(token / kKeyBlock * dim + c) * kKeyBlock + token % kKeyBlock];
  }
};

float draw(Random& random, double scale) {
  return static_cast<float>((static_cast<double>(random.below(1u << 20)) / (1u << 19) - 1.0) * scale);
}

Case make_case(Random& random, std::size_t dim, std::size_t tokens, std::size_t queries) {
  Case c{dim, tokens, {}, {}, {}, {}};
  c.keys.resize((tokens + kKeyBlock - 1) / kKeyBlock * kKeyBlock * dim);
  for (float& k : c.keys) k = draw(random, 2.0);
  const double sharp = random.below(2) == 0 ? 1.0 : 30.0;  // logits of a few hundred: most of exp underflows
  for (std::size_t q = 0; q < queries; ++q) {
    for (std::size_t i = 0; i < dim; ++i) c.queries.push_back(draw(random, sharp));
    c.visible.push_back(static_cast<std::uint32_t>(1 + random.below(tokens)));
    c.shares.push_back(random.below(4) == 0 ? 1.0f : std::abs(draw(random, 1.0)));
  }
  return c;
}

std::vector<float> run(const AttentionKernels& set, const Case& c) {
  std::vector<float> sums(c.blocks().block_count() * kKeyBlock, 0.0f);
  std::vector<float> scratch(attention_scratch(c.blocks()));
  set.add_squares(c.blocks(), c.queries, c.visible, c.shares, scratch.data(), sums.data());
  return sums;
}

std::vector<double> defined(const Case& c) {
  std::vector<double> sums(c.tokens);
  for (std::size_t q = 0; q < c.visible.size(); ++q) {
    std::vector<double> p(c.visible[q]);
    double most = -1e300;
    for (std::size_t t = 0; t < p.size(); ++t) {
      for (std::size_t i = 0; i < c.dim; ++i) p[t] += double{c.queries[q * c.dim + i]} * double{c.key(t, i)};
      most = std::max(most, p[t]);
    }
    double all = 0.0;
    for (double& x : p) all += x = std::exp2(x - most);
    for (std::size_t t = 0; t < p.size(); ++t) sums[t] += double{c.shares[q]} * (p[t] / all) * (p[t] / all);
  }
  return sums;
}

}  // namespace

TEST_CASE("attention: every target gives the scalar set's bits", "[unit]") {
  Random random("attention targets");
  for (const AttentionKernels* set : attention_targets()) {
    for (const std::size_t dim : {1u, 7u, 64u, 128u}) {
      for (const std::size_t tokens : {1u, 15u, 16u, 17u, 333u}) {
        for (const std::size_t queries : {1u, 7u, 9u, 64u}) {
          const Case c = make_case(random, dim, tokens, queries);
          const auto expected = run(attention_scalar(), c);
          const auto found = run(*set, c);
          INFO(set->name << ", " << dim << " channels, " << tokens << " tokens, " << queries << " queries");
          CHECK(std::memcmp(found.data(), expected.data(), c.tokens * sizeof(float)) == 0);
        }
      }
    }
  }
}

TEST_CASE("attention: the sums are those of the definition", "[unit]") {
  Random random("attention definition");
  for (int round = 0; round < 30; ++round) {
    const Case c = make_case(random, 1 + random.below(80), 1 + random.below(200), 1 + random.below(20));
    const auto expected = defined(c);
    const auto found = run(attention_kernels(), c);
    double largest = 0.0;
    double worst = 0.0;
    for (std::size_t t = 0; t < c.tokens; ++t) {
      largest = std::max(largest, expected[t]);
      worst = std::max(worst, std::abs(double{found[t]} - expected[t]));
    }
    CHECK(worst <= 2e-3 * largest);  // logits of hundreds have an error of 1e-4 in f32
  }
}

TEST_CASE("attention: what a query does not see gets nothing", "[unit]") {
  Random random("attention mask");
  Case c = make_case(random, 16, 40, 1);
  c.visible = {19};
  const auto sums = run(attention_kernels(), c);
  for (std::size_t t = 19; t < 40; ++t) CHECK(sums[t] < 1e-30f);
  float all = 0.0f;
  for (std::size_t t = 0; t < 19; ++t) all += sums[t];
  CHECK(all > 0.0f);
}

}  // namespace cachecard::kernel
