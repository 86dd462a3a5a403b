#pragma once

#include <atomic>

#include "cachecard/reader.hpp"
#include "card_plan.hpp"

namespace cachecard::tests {

/// A fixture plan as a CacheSource, for write_card.
class PlanSource final : public CacheSource {
 public:
  explicit PlanSource(fixtures::CardPlan plan) : plan_(std::move(plan)) {}
  const CardHeader& header() const override { return plan_.header; }
  std::span<const std::int32_t> token_ids() const override { return plan_.token_ids; }
  std::span<const std::int32_t> positions() const override { return plan_.positions; }
  Status read_rows(std::size_t stream, std::uint64_t first, std::uint64_t count,
                   std::span<std::byte> out) const override;
  Status read_opaque(std::size_t stream, std::uint64_t offset, std::span<std::byte> out) const override;
  std::string_view text() const override { return text_; }
  const RopeTable* rope_table() const override { return plan_.rope_table ? &*plan_.rope_table : nullptr; }
  const SourceLayout* source_layout() const override { return layout_ ? &*layout_ : nullptr; }
  Status read_literals(std::uint64_t offset, std::span<std::byte> out) const override;

  fixtures::CardPlan& plan() { return plan_; }
  void set_text(std::string text) { text_ = std::move(text); }
  /// A recipe of nothing but literals.
  void set_literals(std::vector<std::byte> literals);

 private:
  fixtures::CardPlan plan_;
  std::string text_;
  std::optional<SourceLayout> layout_;
  std::vector<std::byte> literals_;
};

/// Threads for tests: runs tasks on `threads` of them.
struct TestThreads {
  std::size_t threads = 4;
  ParallelFor parallel();
};

/// A small card with two segments, two layers, chunks of 5 tokens.
fixtures::CardPlan two_segment_plan(DType dtype, std::uint32_t hadamard_size = 1);

/// All values of a stream as f32.
std::vector<float> decode_all(const CardReader& card, std::size_t stream);

std::vector<std::byte> written(const PlanSource& source, const CardOptions& options = {});

}  // namespace cachecard::tests
