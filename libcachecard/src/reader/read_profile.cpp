#include "cachecard/profile.hpp"
#include "reader/payload.hpp"

namespace cachecard {

Result<ModelProfile> read_profile(const CardReader& card) {
  ModelProfile profile;
  profile.header = card.header();
  for (std::size_t i = 0; i < card.frames().size(); ++i) {
    if (card.frames()[i].section_type != static_cast<std::uint16_t>(SectionType::kModelProfile)) continue;
    auto payload = card.read_section(i);
    if (!payload) return payload.error();
    auto layer = parse_profile_layer(*payload);
    if (!layer) return at_payload(layer.error(), card.frames()[i]);
    if (!profile.layers.empty() && layer->record.layer <= profile.layers.back().record.layer) {
      return at_payload({ErrorCode::kCorrupt, kNoOffset, "model_profile.layer", "layers do not ascend"}, card.frames()[i]);
    }
    profile.layers.push_back(std::move(*layer));
  }
  if (!profile.layers.empty()) return profile;
  return Error{ErrorCode::kInvalidArgument, kNoOffset, "model_profile", "this card is no model profile: it has no such section"};
}

}  // namespace cachecard
