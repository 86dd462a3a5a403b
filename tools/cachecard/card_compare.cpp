#include "card_compare.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "output.hpp"

namespace cachecard::cli {
namespace {

void add_if_different(std::string what, const Json& left, const Json& right, std::vector<Difference>& out,
                      bool values = false) {
  if (left != right) out.push_back({std::move(what), cell(left), cell(right), values});
}

void compare_identity(const Identity& left, const Identity& right, std::vector<Difference>& out) {
  std::vector<std::uint16_t> fields;
  for (const auto* side : {&left, &right}) {
    for (const Identity::Value& value : side->values()) fields.push_back(value.field_id);
  }
  std::sort(fields.begin(), fields.end());
  fields.erase(std::unique(fields.begin(), fields.end()), fields.end());
  const auto text = [](const Identity::Value* value) {
    return value == nullptr ? std::string("unknown") : format_identity_value(*value);
  };
  for (std::uint16_t field : fields) {
    const auto* a = left.find(static_cast<IdentityField>(field));
    const auto* b = right.find(static_cast<IdentityField>(field));
    if (a != nullptr && b != nullptr && *a == *b) continue;
    out.push_back({identity_name(field), text(a), text(b), false});
  }
}

void compare_header(const CardHeader& left, const CardHeader& right, Comparison& result) {
  auto& out = result.structure;
  add_if_different("token_count", left.token_count, right.token_count, out, true);
  add_if_different("next_position", left.next_position, right.next_position, out);
  add_if_different("layer_count", left.layer_count, right.layer_count, out);
  add_if_different("restorable", cachecard::name_of(left.restorable), cachecard::name_of(right.restorable),
                   out);
  add_if_different("restorable_from", left.restorable_from, right.restorable_from, out);
  add_if_different("flags", header_flag_names(left.flags), header_flag_names(right.flags), out);
  add_if_different("segment_count", left.segments.size(), right.segments.size(), out);
  for (std::size_t i = 0; i < std::min(left.segments.size(), right.segments.size()); ++i) {
    const Json a = record_json(left.segments[i]);
    const Json b = record_json(right.segments[i]);
    for (const auto& [field, value] : a.items()) {
      add_if_different(fmt::format("segment {} {}", i, field), value, b.at(field),
                       field == "chunk_order" ? result.storage : out);
    }
  }
}

bool is_about_values(std::string_view field) {
  constexpr std::array<std::string_view, 6> kFields{"stream",      "kv_head_count", "head_dim",
                                                    "first_token", "token_count",   "opaque_size"};
  return std::find(kFields.begin(), kFields.end(), field) != kFields.end();
}

/// Differences of streams, alike ones of several layers as one.
class StreamDifferences {
 public:
  void add(const StreamRecord& stream, const std::string& field, const Json& left, const Json& right) {
    if (left == right) return;
    const std::string kind(cachecard::name_of(static_cast<StreamKind>(stream.stream)));
    const Difference found{kind + " " + field, cell(left), cell(right), is_about_values(field)};
    auto group = groups_.begin();
    while (group != groups_.end() && !same(group->difference, found)) ++group;
    if (group == groups_.end()) group = groups_.insert(group, {found, {}});
    group->layers.push_back(stream.layer);
  }

  void append_to(std::vector<Difference>& out) const {
    for (const Group& group : groups_) {
      const char* word = group.layers.size() == 1 ? "layer" : "layers";
      out.push_back({fmt::format("{} of {} {}", group.difference.what, word, ranges(group.layers)),
                     group.difference.left, group.difference.right, group.difference.values});
    }
  }

 private:
  struct Group {
    Difference difference;
    std::vector<std::uint32_t> layers;
  };
  static bool same(const Difference& a, const Difference& b) {
    return a.what == b.what && a.left == b.left && a.right == b.right;
  }
  std::vector<Group> groups_;
};

void compare_records(const StreamRecord& left, const StreamRecord& right, StreamDifferences& out) {
  const Json a = record_json(left);
  const Json b = record_json(right);
  for (const auto& [field, value] : a.items()) {
    if (field != "part_first") out.add(left, field, value, b.at(field));
  }
}

template <class Item>
void compare_lists(std::string_view what, const std::vector<Item>& left, const std::vector<Item>& right,
                   std::vector<Difference>& out) {
  const auto [a, b] = std::mismatch(left.begin(), left.end(), right.begin(), right.end());
  if (a == left.end() && b == right.end()) return;
  const auto text = [](auto at, auto end) { return at == end ? "none" : std::to_string(*at); };
  out.push_back({fmt::format("{} from token {} on", what, a - left.begin()), text(a, left.end()),
                 text(b, right.end()), true});
}

Status compare_tokens(const CardReader& left, const CardReader& right, Comparison& result) {
  const auto unknown = [](const CardReader& card) {
    return (card.header().flags & kHeaderTokensUnknown) != 0;
  };
  if (!unknown(left) && !unknown(right)) {
    auto a = left.token_ids();
    if (!a) return a.error();
    auto b = right.token_ids();
    if (!b) return b.error();
    compare_lists("token_ids", *a, *b, result.structure);
  }
  auto a = left.positions();
  if (!a) return a.error();
  auto b = right.positions();
  if (!b) return b.error();
  compare_lists("positions", expand_positions(*a), expand_positions(*b), result.structure);
  return {};
}

/// Which (section type, codec, compressor) the cards have and how many bytes they cost.
Status compare_storage(const CardReader& left, const CardReader& right, Comparison& result) {
  const auto totals = [](const CardReader& card) -> Result<Json> {
    auto summary = card.summary();
    if (!summary) return summary.error();
    Json object = Json::object();
    for (const SummaryStage& stage : summary->stages) {
      const auto type = static_cast<SectionType>(stage.section_type);
      std::string name(cachecard::name_of(type));
      if (type == SectionType::kChunk) {
        name += fmt::format(" {}", cachecard::name_of(static_cast<Codec>(stage.codec)));
      }
      name += fmt::format(" {}", cachecard::name_of(static_cast<Compressor>(stage.compressor)));
      object[name] =
          fmt::format("{} in {} frames", exact_bytes(stage.stored_size), grouped(stage.frame_count));
    }
    return object;
  };
  auto a = totals(left);
  if (!a) return a.error();
  auto b = totals(right);
  if (!b) return b.error();
  for (const auto& [name, value] : a->items()) {
    add_if_different(name, value, b->value(name, "none"), result.storage);
  }
  for (const auto& [name, value] : b->items()) {
    if (!a->contains(name)) add_if_different(name, "none", value, result.storage);
  }
  return {};
}

/// Whether a card says which channels rotate.
bool can_reorder(const CompareSide& side, RopePairing order) {
  DecodeRequest nothing{side.stream, side.record().first_token, 0, false};
  nothing.rope_pairing = order;
  return static_cast<bool>(side.card->decode(nothing, {}));
}

/// Makes keys comparable: RoPE where one side has it, one side's order of pairs. What cannot be done is left: the
/// records' difference says it.
void align_keys(CompareSide& left, CompareSide& right) {
  const StreamRecord& a = left.record();
  const StreamRecord& b = right.record();
  if (static_cast<StreamKind>(a.stream) != StreamKind::kKey || a.rope_state == 0 || b.rope_state == 0) return;
  if (a.rope_state != b.rope_state) {
    CompareSide& bare = static_cast<RopeState>(a.rope_state) == RopeState::kPreRope ? left : right;
    if (!bare.card->find(SectionType::kRopeTable)) return;
    bare.rope_shift = 0;
  }
  if (a.rope_pairing == b.rope_pairing || a.rope_pairing == 0 || b.rope_pairing == 0) return;
  const auto order = static_cast<RopePairing>(a.rope_pairing);
  const auto other = static_cast<RopePairing>(b.rope_pairing);
  if (can_reorder(right, order)) {
    right.pairing = order;
  } else if (can_reorder(left, other)) {
    left.pairing = other;
  }
}

Status compare_all_streams(const CardReader& left, const CardReader& right, const ParallelFor& parallel,
                           Comparison& result) {
  const CardHeader& a = left.header();
  const CardHeader& b = right.header();
  StreamDifferences differences;
  for (std::size_t i = 0; i < a.streams.size(); ++i) {
    const StreamRecord& stream = a.streams[i];
    const auto j = b.stream_index(stream.layer, static_cast<StreamKind>(stream.stream));
    if (!j) {
      differences.add(stream, "stream", "present", "absent");
      continue;
    }
    const StreamRecord& other = b.streams[*j];
    compare_records(stream, other, differences);
    if (stream.kv_head_count != other.kv_head_count || stream.head_dim != other.head_dim) continue;
    CompareSide one{&left, i};
    CompareSide two{&right, *j};
    align_keys(one, two);
    result.streams.emplace_back();
    if (Status s = compare_streams(one, two, parallel, result.chunks, result.streams.back()); !s) return s;
  }
  for (const StreamRecord& stream : b.streams) {
    if (a.stream_index(stream.layer, static_cast<StreamKind>(stream.stream))) continue;
    differences.add(stream, "stream", "absent", "present");
  }
  differences.append_to(result.structure);
  return {};
}

}  // namespace

std::uint64_t Comparison::count(ChunkVerdict verdict) const {
  return static_cast<std::uint64_t>(std::count_if(
      chunks.begin(), chunks.end(), [&](const ChunkComparison& chunk) { return chunk.verdict == verdict; }));
}

bool Comparison::different() const {
  return !same_root && (!identity.empty() || !structure.empty() || count(ChunkVerdict::kDifferent) > 0);
}

bool StreamComparison::beyond(double tolerance) const {
  if (nonfinite > 0 || (stream == StreamKind::kOpaque && differing > 0)) return true;
  return relative_error > tolerance;
}

bool Comparison::beyond(double tolerance) const {
  const auto counts = [](const Difference& difference) { return difference.values; };
  return std::any_of(structure.begin(), structure.end(), counts) ||
         std::any_of(streams.begin(), streams.end(), [=](const StreamComparison& s) { return s.beyond(tolerance); });
}

Result<Comparison> compare(const CardReader& left, const CardReader& right, const ParallelFor& parallel) {
  Comparison result;
  result.same_root = left.trailer().root == right.trailer().root;
  compare_identity(left.header().identity, right.header().identity, result.identity);
  compare_header(left.header(), right.header(), result);
  if (Status s = compare_tokens(left, right, result); !s) return s.error();
  if (Status s = compare_storage(left, right, result); !s) return s.error();
  if (Status s = compare_all_streams(left, right, parallel, result); !s) return s.error();
  return result;
}

}  // namespace cachecard::cli
