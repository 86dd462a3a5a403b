#include <string>
#include <vector>

#include "c_api_boundary.hpp"

/// What a card says of its context beside tokens: text, RoPE tables, provenance.

namespace cachecard::c_api {
namespace {

bool is_type(const FrameHeader& frame, SectionType type) {
  return frame.section_type == static_cast<std::uint16_t>(type);
}

/// Segments joined, as their tokens are.
Result<std::string> card_text(const CardReader& reader) {
  std::string text;
  for (std::uint32_t segment = 0; segment < reader.header().segments.size(); ++segment) {
    const auto frame = reader.find(SectionType::kText, segment);
    if (!frame) continue;
    auto payload = reader.read_section(*frame);
    if (!payload) return payload.error();
    text.append(reinterpret_cast<const char*>(payload->data()), payload->size());
  }
  return text;
}

/// Frame of the table that holds for a layer: its own goes before the card's.
std::optional<std::size_t> find_rope_table(const CardReader& reader, std::uint32_t layer) {
  std::optional<std::size_t> found;
  const auto frames = reader.frames();
  for (std::size_t i = 0; i < frames.size(); ++i) {
    if (!is_type(frames[i], SectionType::kRopeTable)) continue;
    if (frames[i].layer == layer) return i;
    if (frames[i].layer == kNoLayer && !found) found = i;
  }
  return found;
}

ccd_rope_table table_facts(const RopeTable& table, std::uint32_t layer) {
  ccd_rope_table facts{};
  facts.layer = layer;
  facts.pairing = table.record.pairing;
  facts.rotated_offset = table.record.rotated_offset;
  facts.pair_count = table.record.pair_count;
  facts.magnitude = table.record.magnitude;
  return facts;
}

ccd_provenance_step step_facts(const ProvenanceEntry& entry) {
  ccd_provenance_step step{};
  step.hop = entry.hop;
  step.operation = static_cast<std::uint32_t>(entry.operation);
  step.time = entry.time;
  std::copy(entry.parent_root.begin(), entry.parent_root.end(), step.parent_root);
  return step;
}

}  // namespace
}  // namespace cachecard::c_api

using namespace cachecard;
using namespace cachecard::c_api;

ccd_status ccd_card_get_text(const ccd_card* card, char* out, size_t capacity, size_t* size,
                             ccd_error* error) noexcept {
  return guarded(error, [&]() -> Status {
    if (card == nullptr) return argument_error("card is NULL");
    auto text = card_text(card->reader);
    if (!text) return text.error();
    return give_array(std::span<const char>(*text), out, capacity, size);
  });
}

ccd_status ccd_card_get_rope_table(const ccd_card* card, uint32_t layer, ccd_rope_table* table, double* out,
                                   size_t capacity, size_t* count, ccd_error* error) noexcept {
  return guarded(error, [&]() -> Status {
    if (card == nullptr) return argument_error("card is NULL");
    if (Status s = can_give(table, "table"); !s) return s;
    if (layer != CCD_ALL_LAYERS && layer >= card->reader.header().layer_count) {
      return argument_error("no layer " + std::to_string(layer));
    }
    const auto frame = find_rope_table(card->reader, layer);
    if (!frame) {
      return Error{ErrorCode::kIdentityUnknown, kNoOffset, "rope_table",
                   "the card holds none for this layer"};
    }
    auto payload = card->reader.read_section(*frame);
    if (!payload) return payload.error();
    auto parsed = parse_rope_table(*payload);
    if (!parsed) return parsed.error();
    give(table_facts(*parsed, card->reader.frames()[*frame].layer), table);
    return give_array(std::span<const double>(parsed->inverse_frequencies), out, capacity, count);
  });
}

ccd_status ccd_card_get_provenance_count(const ccd_card* card, uint32_t* count, ccd_error* error) noexcept {
  return guarded(error, [&]() -> Status {
    if (card == nullptr || count == nullptr) return argument_error("card or count is NULL");
    auto entries = card->reader.provenance();
    if (!entries) return entries.error();
    *count = static_cast<uint32_t>(entries->size());
    return {};
  });
}

ccd_status ccd_card_get_provenance(const ccd_card* card, uint32_t index, ccd_provenance_step* step,
                                   char* text, size_t capacity, size_t* size, ccd_error* error) noexcept {
  return guarded(error, [&]() -> Status {
    if (card == nullptr) return argument_error("card is NULL");
    if (Status s = can_give(step, "step"); !s) return s;
    auto entries = card->reader.provenance();
    if (!entries) return entries.error();
    if (index >= entries->size()) return argument_error("no provenance step " + std::to_string(index));
    const ProvenanceEntry& entry = (*entries)[index];
    give(step_facts(entry), step);
    return give_array(std::span<const char>(entry.text), text, capacity, size);
  });
}
