#include "card_facts.hpp"

namespace cachecard::llama_cpp {

ModelFacts facts_of_card(const CardHeader& header) {
  ModelFacts facts;
  facts.identity = header.identity;
  facts.architecture = header.identity.text(IdentityField::kArchitecture).value_or("");
  facts.layer_count = header.layer_count;
  facts.kv_head_count.assign(header.layer_count, 0);
  facts.key_head_dim.assign(header.layer_count, 0);
  facts.value_head_dim.assign(header.layer_count, 0);
  facts.layer_is_sliding.assign(header.layer_count, 0);
  const std::string rope = header.identity.text(IdentityField::kRopeType).value_or("");
  facts.cell_ext = rope == "mrope" || rope == "imrope";
  for (const StreamRecord& stream : header.streams) {
    const auto kind = static_cast<StreamKind>(stream.stream);
    if (kind == StreamKind::kOpaque) facts.module = ModelFacts::Module::kOther;
    if (kind == StreamKind::kOpaque || stream.layer >= header.layer_count) continue;
    facts.kv_head_count[stream.layer] = stream.kv_head_count;
    (kind == StreamKind::kValue ? facts.value_head_dim : facts.key_head_dim)[stream.layer] = stream.head_dim;
    facts.key_only = facts.key_only || kind == StreamKind::kLatent;
    if (stream.window == 0) continue;
    facts.layer_is_sliding[stream.layer] = 1;
    facts.sliding_window = stream.window;
    facts.module = ModelFacts::Module::kSlidingPair;
  }
  return facts;
}

}  // namespace cachecard::llama_cpp
