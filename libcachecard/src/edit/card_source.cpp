#include "cachecard/edit.hpp"
#include "edit/card_text.hpp"

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
  std::string_view text() const override { return text_; }
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
  std::string text_;
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
  auto text = text_of(card_);
  if (!text) return text.error();
  text_ = std::move(*text);
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

Result<std::string> text_of(const CardReader& card) {
  std::string text;
  for (std::uint32_t segment = 0; segment < card.header().segments.size(); ++segment) {
    const auto index = card.find(SectionType::kText, segment);
    if (!index) continue;
    auto payload = card.read_section(*index);
    if (!payload) return payload.error();
    text.append(reinterpret_cast<const char*>(payload->data()), payload->size());
  }
  return text;
}

Result<std::unique_ptr<CacheSource>> card_as_source(const CardReader& card) {
  auto source = std::make_unique<CardSource>(card);
  if (Status s = source->load(); !s) return s.error();
  return std::unique_ptr<CacheSource>(std::move(source));
}

}  // namespace cachecard
