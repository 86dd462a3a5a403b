#include "edit/cut.hpp"

#include "cachecard/digest.hpp"
#include "format/entropy_layout.hpp"
#include "format/planes_layout.hpp"
#include "format/record_check.hpp"

namespace cachecard {

Result<Cut> plan_cut(const CardHeader& header, const TrimOptions& options) {
  Cut cut{options.first_token, options.end_token.value_or(header.token_count), options.first_layer,
          options.end_layer.value_or(header.layer_count)};
  if (cut.first >= cut.end || cut.end > header.token_count) {
    return Error{ErrorCode::kInvalidArgument, kNoOffset, "--tokens",
                 "found " + std::to_string(cut.first) + ":" + std::to_string(cut.end) +
                     ", allowed a part of 0:" + std::to_string(header.token_count)};
  }
  if (cut.first_layer >= cut.end_layer || cut.end_layer > header.layer_count) {
    return Error{ErrorCode::kInvalidArgument, kNoOffset, "--layers",
                 "found " + std::to_string(cut.first_layer) + ":" + std::to_string(cut.end_layer) +
                     ", allowed a part of 0:" + std::to_string(header.layer_count)};
  }
  for (const auto& bits : {options.key_bits, options.value_bits}) {
    if (!bits || (*bits >= 1 && *bits <= kMostBits)) continue;
    return Error{ErrorCode::kInvalidArgument, kNoOffset, "--bits",
                 "found " + std::to_string(*bits) + ", allowed 1 to 8"};
  }
  cut.whole_tokens = cut.first == 0 && cut.end == header.token_count;
  cut.whole_layers = cut.first_layer == 0 && cut.end_layer == header.layer_count;
  return cut;
}

Status check_restorable(const CardHeader& header, const Cut& cut) {
  const bool opaque = std::any_of(header.streams.begin(), header.streams.end(), is_opaque);
  if (opaque && !(cut.whole_tokens && cut.whole_layers)) {
    return Error{ErrorCode::kNotRestorable, kNoOffset, "stream.opaque", "opaque state cannot be cut"};
  }
  if (header.restorable == Restorable::kWholeOnly && !cut.whole_tokens) {
    return Error{ErrorCode::kNotRestorable, kNoOffset, "header.restorable", "only the whole can be restored"};
  }
  if (header.restorable == Restorable::kFromCount && cut.end < header.restorable_from) {
    return Error{ErrorCode::kNotRestorable, kNoOffset, "header.restorable_from",
                 found_allowed(cut.end, "at least " + std::to_string(header.restorable_from))};
  }
  return {};
}

References cut_references(const References& references, std::uint64_t first, std::uint64_t count) {
  References kept(references.begin() + static_cast<std::ptrdiff_t>(first),
                  references.begin() + static_cast<std::ptrdiff_t>(first + count));
  for (std::size_t t = 0; t < kept.size(); ++t) {
    if ((kept[t] & kMostDistance) > t) kept[t] = 0;
  }
  return kept;
}

std::string describe(const Cut& cut, const TrimOptions& options) {
  std::string text = "trim tokens " + std::to_string(cut.first) + ":" + std::to_string(cut.end) + " layers " +
                     std::to_string(cut.first_layer) + ":" + std::to_string(cut.end_layer);
  if (options.key_bits || options.value_bits) {
    const auto bits = [](const auto& b) { return b ? std::to_string(*b) : std::string("all"); };
    text += " bits " + bits(options.key_bits) + "," + bits(options.value_bits);
  }
  return text;
}

Status append_cut(CardWriter& writer, FrameHeader frame, std::vector<std::byte> payload) {
  EncodedSection section;
  section.buffer = std::move(payload);
  section.stored = section.buffer;
  frame.stored_size = frame.decoded_size = section.buffer.size();
  frame.stored_digest = digest64(section.stored.first(frame.digest_size));
  section.frame = frame;
  auto written = writer.append(section);
  if (!written) return written.error();
  return {};
}

}  // namespace cachecard
