#include "cache_layout.hpp"

#include <algorithm>
#include <limits>

#include "pt_error.hpp"

namespace cachecard::pytorch {
namespace {

std::string layer_name(std::size_t layer) { return "layer " + std::to_string(layer); }

Status check_shape(const LayerShape& shape, std::size_t layer) {
  const Limits limits;
  const std::uint64_t width = std::max(shape.key_head_dim, shape.value_head_dim);
  if (shape.kv_head_count == 0 || shape.key_head_dim == 0 || shape.value_head_dim == 0 ||
      shape.token_count == 0) {
    return pt_error(kNoOffset, layer_name(layer), "found an empty tensor");
  }
  if (shape.token_count > limits.token_count || shape.kv_head_count * width > (1u << 22)) {
    return Error{ErrorCode::kLimitExceeded, kNoOffset, layer_name(layer),
                 "found " + std::to_string(shape.token_count) + " tokens of " +
                     std::to_string(shape.kv_head_count * width) + " values, allowed 4194304 of 4194304"};
  }
  return {};
}

/// How many tokens the cache is of: as its lists say, else as its longest layer.
Result<std::uint64_t> count_tokens(std::span<const LayerShape> shapes, const CacheFacts& facts) {
  const Limits limits;
  std::uint64_t longest = 0;
  for (const LayerShape& shape : shapes) {
    const std::uint64_t first = std::min(shape.first_token.value_or(0), limits.token_count + 1);
    longest = std::max(longest, first + shape.token_count);
  }
  const std::uint64_t ids = facts.token_ids.size();
  const std::uint64_t positions = facts.positions.size();
  if (ids > 0 && positions > 0 && ids != positions) {
    return pt_error(
        kNoOffset, "positions",
        "found " + std::to_string(positions) + " positions for " + std::to_string(ids) + " token ids");
  }
  const std::uint64_t listed = std::max(ids, positions);
  if (listed > 0 && listed != longest) {
    return pt_error(kNoOffset, ids > 0 ? "token_ids" : "positions",
                    "found " + std::to_string(listed) + " for a cache of " + std::to_string(longest) +
                        " tokens: give those of the cached tokens");
  }
  if (longest <= limits.token_count) return longest;
  return Error{ErrorCode::kLimitExceeded, kNoOffset, "token_count",
               "found " + std::to_string(longest) + ", allowed " + std::to_string(limits.token_count)};
}

/// Where every layer has a window that is full, tokens may have gone before without a trace.
Status check_beginning(std::span<const LayerShape> shapes, const CacheFacts& facts) {
  if (!facts.token_ids.empty() || !facts.positions.empty()) return {};
  for (const LayerShape& shape : shapes) {
    if (shape.first_token || shape.window == 0 || shape.token_count + 1 < shape.window) return {};
  }
  return pt_error(kNoOffset, "first_token",
                  "every layer has a full window: say which tokens they hold, by token ids or positions");
}

/// The first token that a layer holds. A layer may lack the oldest only where a window says so.
Result<std::uint64_t> first_held(const LayerShape& shape, std::size_t layer, std::uint64_t token_count) {
  const std::uint64_t first = token_count - shape.token_count;
  if (shape.first_token && *shape.first_token != first) {
    return pt_error(kNoOffset, layer_name(layer),
                    "holds " + std::to_string(shape.token_count) + " tokens from " +
                        std::to_string(*shape.first_token) + ", the cache has " +
                        std::to_string(token_count));
  }
  // transformers keeps window - 1 tokens, others the window. source: cache_utils.py DynamicSlidingWindowLayer
  const bool windowed = shape.window > 0 && shape.token_count + 1 >= shape.window;
  if (first == 0 || windowed) return first;
  return pt_error(
      kNoOffset, layer_name(layer),
      "holds " + std::to_string(shape.token_count) + " tokens, the cache has " + std::to_string(token_count) +
          (shape.window > 0 ? ", and its window is " + std::to_string(shape.window)
                            : ": a pruned cache, token ids of another length, or a sliding window "
                              "that nothing declares"));
}

Status check_positions(std::span<const std::int32_t> positions) {
  for (std::size_t i = 0; i < positions.size(); ++i) {
    const std::int32_t before = i == 0 ? 0 : positions[i - 1];
    if (positions[i] >= before) continue;
    return pt_error(kNoOffset, "positions",
                    "found " + std::to_string(positions[i]) + " at token " + std::to_string(i) +
                        ", allowed " + std::to_string(before) + " and above");
  }
  return {};
}

StreamRecord base_stream(const LayerShape& shape, std::size_t layer, std::uint64_t first) {
  StreamRecord stream;
  stream.layer = static_cast<std::uint32_t>(layer);
  stream.kv_head_count = shape.kv_head_count;
  stream.window = shape.window;
  stream.first_token = first;
  stream.token_count = shape.token_count;
  return stream;
}

void add_key(const LayerShape& shape, const CacheFacts& facts, StreamRecord stream, CardHeader& header) {
  stream.stream = static_cast<std::uint8_t>(StreamKind::kKey);
  stream.dtype = static_cast<std::uint8_t>(shape.key_dtype);
  stream.head_dim = shape.key_head_dim;
  const bool rope = facts.rope_state != RopeState::kNone &&
                    (stream.layer >= facts.layer_has_rope.size() || facts.layer_has_rope[stream.layer] != 0);
  stream.rope_state = static_cast<std::uint8_t>(rope ? facts.rope_state : RopeState::kNone);
  stream.rope_pairing = static_cast<std::uint8_t>(rope ? facts.rope_pairing : RopePairing::kNone);
  const std::uint32_t offset = facts.rotated_offset;
  if (rope && offset > 0 && std::uint64_t{offset} + facts.rotated_width == stream.head_dim) {
    stream.part_first = static_cast<std::uint32_t>(header.parts.size());
    stream.part_count = 2;
    header.parts.push_back({.offset = 0, .width = offset, .rotated = 0, .reserved = {}});
    header.parts.push_back({.offset = offset, .width = facts.rotated_width, .rotated = 1, .reserved = {}});
  }
  header.streams.push_back(stream);
}

void add_value(const LayerShape& shape, StreamRecord stream, CardHeader& header) {
  stream.stream = static_cast<std::uint8_t>(StreamKind::kValue);
  stream.dtype = static_cast<std::uint8_t>(shape.value_dtype);
  stream.head_dim = shape.value_head_dim;
  header.streams.push_back(stream);
}

/// spec: FORMAT.md#restorable-prefixes
void set_restorable(std::uint64_t first, std::uint32_t window, CardHeader& header) {
  if (first == 0) return;
  const std::uint64_t needed = std::min(first + std::max(window, 1u) - 1, header.token_count);
  header.restorable = Restorable::kFromCount;
  header.restorable_from = std::max(header.restorable_from, needed);
}

}  // namespace

Result<CacheLayout> lay_out(std::span<const LayerShape> shapes, CacheFacts facts) {
  const Limits limits;
  if (shapes.empty() || shapes.size() > limits.stream_count / 2) {
    return pt_error(kNoOffset, "layers",
                    "found " + std::to_string(shapes.size()) + " layers, allowed 1 to " +
                        std::to_string(limits.stream_count / 2));
  }
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    if (Status s = check_shape(shapes[i], i); !s) return s.error();
  }
  auto count = count_tokens(shapes, facts);
  if (!count) return count.error();
  if (Status s = check_beginning(shapes, facts); !s) return s.error();
  CacheLayout layout;
  CardHeader& header = layout.header;
  header.token_count = *count;
  header.layer_count = static_cast<std::uint32_t>(shapes.size());
  header.identity = std::move(facts.identity);
  SegmentRecord segment;
  segment.token_count = *count;
  header.segments = {segment};
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    auto first = first_held(shapes[i], i, *count);
    if (!first) return first.error();
    add_key(shapes[i], facts, base_stream(shapes[i], i, *first), header);
    add_value(shapes[i], base_stream(shapes[i], i, *first), header);
    set_restorable(*first, shapes[i].window, header);
  }
  layout.positions = std::move(facts.positions);
  for (std::uint64_t i = layout.positions.size(); i < *count; ++i) {
    layout.positions.push_back(static_cast<std::int32_t>(i));
  }
  if (Status s = check_positions(layout.positions); !s) return s.error();
  for (std::size_t i = 0; i < layout.positions.size(); ++i) {
    if (layout.positions[i] != static_cast<std::int32_t>(i)) header.flags |= kHeaderNotAPrefix;
  }
  header.next_position = std::int64_t{layout.positions.back()} + 1;
  layout.token_ids = std::move(facts.token_ids);
  if (layout.token_ids.empty()) header.flags |= kHeaderTokensUnknown;
  return layout;
}

}  // namespace cachecard::pytorch
