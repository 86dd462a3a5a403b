#include "pt_structure.hpp"

#include <algorithm>
#include <array>

#include "cachecard/types.hpp"
#include "pt_error.hpp"

namespace cachecard::pytorch {
namespace {

constexpr std::size_t kMaxKeys = 1024;  // of a dict that is searched, once for each layer
constexpr std::array<std::string_view, 3> kCacheKeys{"past_key_values", "cache", "kv_cache"};
constexpr std::array<std::string_view, 8> kOwnKeys{"token_ids",   "input_ids", "positions",  "position_ids",
                                                   "first_token", "window",    "rope_state", "rope_pairing"};
constexpr std::string_view kAllowed =
    "allowed: (key, value) pairs, key_cache and value_cache, or past_key_values of these";

std::string layer_name(std::size_t layer) { return "layer " + std::to_string(layer); }

/// Walks from the root to the tensors; never deeper than a cache is.
class StructureFinder {
 public:
  explicit StructureFinder(const PickleValues& values) : values_(values) {}

  Status outer(PickleId root);
  PtStructure take() { return std::move(found_); }

 private:
  Status cache(PickleId id);
  Status pairs(PickleId id);
  Status lists(PickleId keys, PickleId values);
  Status layer_objects(PickleId id);
  Status add(PickleId key, PickleId value, PtStructure::Layer layer = {});
  Status check_count(std::size_t count) const;
  Status facts(PickleId dict);
  std::optional<std::uint64_t> number(PickleId dict, std::string_view key) const;
  std::string kind_of(PickleId id) const;
  /// The dict of an id: itself, or an object's attributes.
  Result<PickleId> attributes(PickleId id) const;

  const PickleValues& values_;
  PtStructure found_;
};

std::string StructureFinder::kind_of(PickleId id) const {
  std::string kind(name_of(values_.kind(id)));
  if (values_.kind(id) == PickleKind::kObject) kind = shown(values_.text(id));
  if (values_.is_sequence(id)) kind += " of " + std::to_string(values_.members(id).size());
  return kind;
}

Result<PickleId> StructureFinder::attributes(PickleId id) const {
  const PickleNode& node = values_.nodes[id];
  PickleId dict = id;
  if (node.kind == PickleKind::kObject) {
    if (node.state == kNoPickle)
      return pt_error(kNoOffset, "cache", shown(values_.text(id)) + " has no attributes");
    dict = node.state;
  }
  if (values_.kind(dict) != PickleKind::kDict) return pt_error(kNoOffset, "cache", "found a " + kind_of(id));
  if (values_.members(dict).size() / 2 > kMaxKeys) {
    return Error{ErrorCode::kLimitExceeded, kNoOffset, "cache", "a dict of more than 1024 keys"};
  }
  return dict;
}

std::optional<std::uint64_t> StructureFinder::number(PickleId dict, std::string_view key) const {
  const auto id = values_.find(dict, key);
  if (!id || values_.kind(*id) != PickleKind::kInt || values_.nodes[*id].number < 0) return std::nullopt;
  return static_cast<std::uint64_t>(values_.nodes[*id].number);
}

Status StructureFinder::check_count(std::size_t count) const {
  const std::size_t most = Limits{}.stream_count / 2;
  if (count == 0) return pt_error(kNoOffset, "cache", "found no layer");
  if (count <= most) return {};
  return Error{ErrorCode::kLimitExceeded, kNoOffset, "cache",
               "found " + std::to_string(count) + " layers, allowed " + std::to_string(most)};
}

Status StructureFinder::add(PickleId key, PickleId value, PtStructure::Layer layer) {
  for (const PickleId id : {key, value}) {
    if (values_.kind(id) == PickleKind::kTensor) continue;
    return pt_error(kNoOffset, layer_name(found_.layers.size()),
                    std::string("its ") + (id == key ? "key" : "value") + " is a " + kind_of(id) +
                        ", allowed is a tensor [1, heads, tokens, head_dim]");
  }
  layer.key = key;
  layer.value = value;
  found_.layers.push_back(layer);
  return {};
}

Status StructureFinder::pairs(PickleId id) {
  const auto& members = values_.members(id);
  if (Status s = check_count(members.size()); !s) return s;
  for (std::size_t i = 0; i < members.size(); ++i) {
    const bool sequence = values_.is_sequence(members[i]);
    const std::size_t count = sequence ? values_.members(members[i]).size() : 0;
    // transformers 5 yields (key, value, None) for layers without a window.
    const bool third = count == 3 && values_.kind(values_.members(members[i])[2]) == PickleKind::kNone;
    if (count != 2 && !third) {
      return pt_error(kNoOffset, layer_name(i),
                      "is a " + kind_of(members[i]) + ", allowed is a pair (key, value)" +
                          (count == 4 ? ": an encoder-decoder cache" : ""));
    }
    const auto& pair = values_.members(members[i]);
    if (Status s = add(pair[0], pair[1]); !s) return s;
  }
  return {};
}

Status StructureFinder::lists(PickleId keys, PickleId values) {
  if (!values_.is_sequence(keys) || !values_.is_sequence(values)) {
    return pt_error(kNoOffset, "key_cache",
                    "key_cache is a " + kind_of(keys) + " and value_cache a " + kind_of(values) +
                        ", allowed are lists of tensors");
  }
  const auto& k = values_.members(keys);
  const auto& v = values_.members(values);
  if (k.size() != v.size()) {
    return pt_error(
        kNoOffset, "value_cache",
        "found " + std::to_string(v.size()) + " layers, key_cache has " + std::to_string(k.size()));
  }
  if (Status s = check_count(k.size()); !s) return s;
  for (std::size_t i = 0; i < k.size(); ++i) {
    if (Status s = add(k[i], v[i]); !s) return s;
  }
  return {};
}

/// transformers 5: cache.layers, each with keys and values. source: cache_utils.py DynamicLayer
Status StructureFinder::layer_objects(PickleId id) {
  if (!values_.is_sequence(id))
    return pt_error(kNoOffset, "layers", "found a " + kind_of(id) + ", allowed a list");
  const auto& members = values_.members(id);
  if (Status s = check_count(members.size()); !s) return s;
  for (std::size_t i = 0; i < members.size(); ++i) {
    auto dict = attributes(members[i]);
    if (!dict) return dict.error();
    const auto key = values_.find(*dict, "keys");
    const auto value = values_.find(*dict, "values");
    if (!key || !value) return pt_error(kNoOffset, layer_name(i), "has no keys and values");
    PtStructure::Layer layer;
    layer.window = number(*dict, "sliding_window").value_or(0);
    if (layer.window > 0) layer.held_of = number(*dict, "cumulative_length");
    if (Status s = add(*key, *value, layer); !s) return s;
  }
  return {};
}

Status StructureFinder::cache(PickleId id) {
  if (values_.is_sequence(id)) return pairs(id);
  auto dict = attributes(id);
  if (!dict && values_.kind(id) == PickleKind::kObject) return dict.error();
  if (!dict) {
    return pt_error(kNoOffset, "cache", "found a " + kind_of(id) + "; " + std::string(kAllowed));
  }
  const auto keys = values_.find(*dict, "key_cache");
  const auto values = values_.find(*dict, "value_cache");
  if (keys && values) return lists(*keys, *values);
  if (const auto layers = values_.find(*dict, "layers")) return layer_objects(*layers);
  return pt_error(kNoOffset, "cache", "found no layers; " + std::string(kAllowed));
}

Status StructureFinder::facts(PickleId dict) {
  const auto one_of = [&](std::string_view name, std::string_view other,
                          std::optional<PickleId>& out) -> Status {
    const auto first = values_.find(dict, name);
    const auto second = values_.find(dict, other);
    if (first && second) {
      return pt_error(kNoOffset, name, "found both " + std::string(name) + " and " + std::string(other));
    }
    out = first ? first : second;
    return {};
  };
  if (Status s = one_of("token_ids", "input_ids", found_.token_ids); !s) return s;
  if (Status s = one_of("positions", "position_ids", found_.positions); !s) return s;
  found_.first_token = values_.find(dict, "first_token");
  found_.window = values_.find(dict, "window");
  for (auto& [name, out] :
       {std::pair{"rope_state", &found_.rope_state}, std::pair{"rope_pairing", &found_.rope_pairing}}) {
    const auto id = values_.find(dict, name);
    if (!id) continue;
    if (values_.kind(*id) != PickleKind::kText) return pt_error(kNoOffset, name, "found a " + kind_of(*id));
    *out = values_.text(*id);
  }
  return {};
}

Status StructureFinder::outer(PickleId root) {
  if (values_.kind(root) != PickleKind::kDict) return cache(root);
  auto dict = attributes(root);
  if (!dict) return dict.error();
  if (Status s = facts(*dict); !s) return s;
  PickleId inner = root;
  std::vector<std::string_view> used(kOwnKeys.begin(), kOwnKeys.end());
  for (const std::string_view key : kCacheKeys) {
    const auto id = values_.find(*dict, key);
    if (!id) continue;
    if (inner != root) return pt_error(kNoOffset, key, "found two caches in one file");
    inner = *id;
    used.push_back(key);
  }
  if (inner == root) used.insert(used.end(), {"key_cache", "value_cache", "layers"});
  const auto& members = values_.members(*dict);
  for (std::size_t i = 0; i < members.size(); i += 2) {
    const std::string key =
        values_.kind(members[i]) == PickleKind::kText ? values_.text(members[i]) : kind_of(members[i]);
    if (std::find(used.begin(), used.end(), key) == used.end()) found_.unused.push_back(shown(key));
  }
  return cache(inner);
}

}  // namespace

Result<PtStructure> find_structure(const PickleValues& values, PickleId root) {
  StructureFinder finder(values);
  if (Status s = finder.outer(root); !s) return s.error();
  return finder.take();
}

}  // namespace cachecard::pytorch
