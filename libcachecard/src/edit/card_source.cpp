#include "cachecard/edit.hpp"

namespace cachecard {
namespace {

class CardSource final : public CacheSource {
 public:
  explicit CardSource(const CardReader& card) : card_(card) {}

  Status load();
  const CardHeader& header() const override { return card_.header(); }
  std::span<const std::int32_t> token_ids() const override { return token_ids_; }
  std::span<const std::int32_t> positions() const override { return positions_; }
  const RopeTable* rope_table() const override { return table_ ? &*table_ : nullptr; }
  Status read_rows(std::size_t stream, std::uint64_t first, std::uint64_t count, std::span<std::byte> out) const override {
    std::vector<std::byte> scratch(card_.scratch_bytes(stream));
    return card_.read_rows(stream, first, count, out, scratch);
  }
  Status read_opaque(std::size_t stream, std::uint64_t offset, std::span<std::byte> out) const override {
    return card_.read_opaque(stream, offset, out);
  }

 private:
  const CardReader& card_;
  std::vector<std::int32_t> token_ids_;
  std::vector<std::int32_t> positions_;
  std::optional<RopeTable> table_;
};

Status CardSource::load() {
  if ((header().flags & kHeaderTokensUnknown) == 0) {
    auto ids = card_.token_ids();
    if (!ids) return ids.error();
    token_ids_ = std::move(*ids);
  }
  auto runs = card_.positions();
  if (!runs) return runs.error();
  positions_ = expand_positions(*runs);
  const auto table = card_.find(SectionType::kRopeTable);
  if (!table) return {};
  auto payload = card_.read_section(*table);
  if (!payload) return payload.error();
  auto parsed = parse_rope_table(*payload);
  if (!parsed) return parsed.error();
  table_ = std::move(*parsed);
  return {};
}

}  // namespace

Result<std::unique_ptr<CacheSource>> card_as_source(const CardReader& card) {
  auto source = std::make_unique<CardSource>(card);
  if (Status s = source->load(); !s) return s.error();
  return std::unique_ptr<CacheSource>(std::move(source));
}

}  // namespace cachecard
