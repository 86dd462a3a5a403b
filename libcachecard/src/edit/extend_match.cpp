#include "edit/extend_match.hpp"

#include <algorithm>
#include <cmath>

namespace cachecard {
namespace {

constexpr double kSameFrequency = 1e-5;  ///< relative: runtimes keep frequencies in f32

bool is_judged(const Identity::Value& value) {
  const auto field = static_cast<IdentityField>(value.field_id);
  return identity_field_info(value.field_id) != nullptr && field != IdentityField::kVocabSize &&
         field != IdentityField::kTemplateDigest && field != IdentityField::kModelName &&
         field != IdentityField::kProducer;
}

/// Facts that are known of all tokens; those for people are STATE's where both have them.
Identity common_facts(const Identity& base, const Identity& state) {
  Identity both;
  for (const Identity::Value& value : state.values()) {
    const auto& of_base = base.values();
    if (!is_judged(value) || std::find(of_base.begin(), of_base.end(), value) != of_base.end()) both.set(value);
  }
  for (const Identity::Value& value : base.values()) {
    if (is_judged(value)) continue;
    const auto& known = both.values();
    const auto same = [&](const Identity::Value& other) { return other.field_id == value.field_id; };
    if (std::none_of(known.begin(), known.end(), same)) both.set(value);
  }
  return both;
}

std::span<const PartRecord> parts_of(const CardHeader& header, const StreamRecord& stream) {
  return std::span(header.parts).subspan(stream.part_first, stream.part_count);
}

bool same_parts(std::span<const PartRecord> a, std::span<const PartRecord> b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const PartRecord& x, const PartRecord& y) {
    return x.offset == y.offset && x.width == y.width && x.rotated == y.rotated;
  });
}

Error geometry_error(std::string_view field, std::string detail) {
  return {ErrorCode::kGeometryMismatch, kNoOffset, std::string(field), std::move(detail)};
}

std::string stream_name(const StreamRecord& stream) {
  return "layer " + std::to_string(stream.layer) + " " + std::string(name_of(static_cast<StreamKind>(stream.stream)));
}

Status match_stream(const CardHeader& base, const StreamRecord& a, const CardHeader& state, const StreamRecord& b) {
  const auto differ = [&](std::string_view field, const std::string& of_base, const std::string& of_state) {
    return geometry_error(field, stream_name(a) + ": BASE has " + of_base + ", STATE " + of_state);
  };
  const auto number = [&](std::string_view field, std::uint64_t of_base, std::uint64_t of_state) {
    return of_base == of_state ? Status() : Status(differ(field, std::to_string(of_base), std::to_string(of_state)));
  };
  if (a.dtype != b.dtype) {
    return differ("stream.dtype", std::string(name_of(static_cast<DType>(a.dtype))),
                  std::string(name_of(static_cast<DType>(b.dtype))));
  }
  const struct {
    std::string_view field;
    std::uint64_t of_base, of_state;
  } kNumbers[] = {{"stream.kv_head_count", a.kv_head_count, b.kv_head_count},
                  {"stream.head_dim", a.head_dim, b.head_dim},
                  {"stream.hadamard_size", a.hadamard_size, b.hadamard_size},
                  {"stream.window", a.window, b.window},
                  {"stream.rope_state", a.rope_state, b.rope_state},
                  {"stream.rope_pairing", a.rope_pairing, b.rope_pairing}};
  for (const auto& n : kNumbers) {
    if (Status s = number(n.field, n.of_base, n.of_state); !s) return s;
  }
  if (same_parts(parts_of(base, a), parts_of(state, b))) return {};
  return differ("stream.part_count", std::to_string(a.part_count) + " parts", std::to_string(b.part_count) + " others");
}

bool same_table(const RopeTable& a, const RopeTable& b) {
  if (a.record.pairing != b.record.pairing || a.record.rotated_offset != b.record.rotated_offset ||
      a.record.rotated_width != b.record.rotated_width ||
      std::abs(a.record.magnitude - b.record.magnitude) > kSameFrequency * a.record.magnitude) {
    return false;
  }
  return std::equal(a.inverse_frequencies.begin(), a.inverse_frequencies.end(), b.inverse_frequencies.begin(),
                    b.inverse_frequencies.end(),
                    [](double x, double y) { return std::abs(x - y) <= kSameFrequency * x; });
}

}  // namespace

Result<IdentityMatch> match_base(const Identity& base, const Identity& state, const std::vector<std::string>& allow) {
  auto report = match_identity(base, state, allow);
  if (!report) return report.error();
  IdentityMatch match{std::move(report->fields), common_facts(base, state)};
  if (report->accepted) return match;
  for (const FieldVerdict& verdict : match.fields) {
    const IdentityField field = identity_field_by_name(verdict.field)->field;
    const auto* source_of_base = base.find(IdentityField::kSourceId);
    const auto* source_of_state = state.find(IdentityField::kSourceId);
    const bool other_source = field == IdentityField::kWeightsDigest && source_of_base != nullptr &&
                              source_of_state != nullptr && *source_of_base != *source_of_state;
    const bool neither = base.find(field) == nullptr && state.find(field) == nullptr && !other_source;
    if (verdict.verdict < Verdict::kCompatibleWithLoss || verdict.overridden || neither) continue;
    const bool unknown = verdict.verdict == Verdict::kUnknown;
    std::string detail = std::string(name_of(verdict.verdict)) + ": BASE " + verdict.card_value + ", STATE " + verdict.target_value;
    if (other_source) {
      detail += ", and the declared sources differ: BASE " + format_identity_value(*source_of_base) + ", STATE " +
                format_identity_value(*source_of_state);
    }
    if (!verdict.override_name.empty()) detail += " (--allow " + verdict.override_name + " accepts this)";
    return Error{unknown ? ErrorCode::kIdentityUnknown : ErrorCode::kModelMismatch, kNoOffset,
                 "identity." + verdict.field, std::move(detail)};
  }
  return match;
}

Status match_geometry(const CardHeader& base, const CardHeader& state) {
  if (((base.flags ^ state.flags) & kHeaderPartialLayers) != 0) {
    return Error{ErrorCode::kPartialCard, kNoOffset, "header.flags",
                 (base.flags & kHeaderPartialLayers) != 0 ? "BASE lacks layers of the model, STATE does not"
                                                          : "STATE lacks layers of the model, BASE does not"};
  }
  if (base.layer_count != state.layer_count) {
    return geometry_error("header.layer_count", "BASE has " + std::to_string(base.layer_count) + " layers, STATE " +
                                                    std::to_string(state.layer_count));
  }
  for (const auto& [one, other, name] : {std::tuple{&base, &state, "STATE"}, std::tuple{&state, &base, "BASE"}}) {
    for (const StreamRecord& stream : one->streams) {
      if (is_opaque(stream)) continue;
      const auto same = other->stream_index(stream.layer, static_cast<StreamKind>(stream.stream));
      if (!same) return geometry_error("stream.stream", stream_name(stream) + ": " + name + " has no such stream");
      if (one != &base) continue;
      if (Status s = match_stream(base, stream, state, state.streams[*same]); !s) return s;
    }
  }
  return {};
}

Result<std::optional<RopeTable>> match_rope_table(const CardReader& base, const RopeTable* state) {
  const auto index = base.find(SectionType::kRopeTable);
  if (!index) return state == nullptr ? std::nullopt : std::optional(*state);
  auto payload = base.read_section(*index);
  if (!payload) return payload.error();
  auto table = parse_rope_table(*payload);
  if (!table) return table.error();
  if (state == nullptr || same_table(*table, *state)) return std::optional(*std::move(table));
  return Error{ErrorCode::kModelMismatch, kNoOffset, "rope_table",
               "BASE's keys and STATE's have rotary embeddings of other frequencies"};
}

Result<TokenList> tokens_of(const CardReader& base) {
  TokenList tokens;
  if (base.header().token_count > 0) {
    auto ids = base.token_ids();
    if (!ids) return ids.error();
    tokens.ids = std::move(*ids);
  }
  auto runs = base.positions();
  if (!runs) return runs.error();
  tokens.positions = expand_positions(*runs);
  return tokens;
}

std::optional<Parting> find_parting(const TokenList& base, const CacheSource& state) {
  const auto ids = state.token_ids();
  const auto positions = state.positions();
  const std::size_t both = std::min(base.ids.size(), ids.size());
  for (std::size_t t = 0; t < both; ++t) {
    if (base.ids[t] == ids[t] && base.positions[t] == positions[t]) continue;
    return Parting{t, base.ids[t], ids[t], base.positions[t], positions[t]};
  }
  return std::nullopt;
}

}  // namespace cachecard
